"""`mesh traces`, `mesh trace` and `mesh topology` on a mesh, with the spans of services that send their own."""

from __future__ import annotations

import json
import shlex
import time
import uuid
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.harness import ROOT, RunningMesh, channel, eventually, grpcurl

pytestmark = pytest.mark.xdist_group("demo")


def send(demo: RunningMesh, trace_id: str, order: str, *, code: str) -> None:
    """Send what OpenTelemetry's exporter would: a call of one service to another one."""
    now = time.time_ns()
    request = ExportTraceServiceRequest()
    for number, (service, kind, ms) in enumerate(
        (("till", Span.SPAN_KIND_CLIENT, 80), ("bank", Span.SPAN_KIND_SERVER, 60)), 1
    ):
        group = request.resource_spans.add()
        group.resource.attributes.add(key="service.name").value.string_value = service
        made = group.scope_spans.add().spans.add(
            trace_id=bytes.fromhex(trace_id),
            span_id=number.to_bytes(8, "big"),
            parent_span_id=(number - 1).to_bytes(8, "big"),
            name="bank.v1.Bank/Pay",
            kind=kind,
            start_time_unix_nano=now - ms * 10**6,
            end_time_unix_nano=now,
        )
        for key, value in (("rpc.method", "bank.v1.Bank/Pay"), ("rpc.status_code", code), ("order.id", order)):
            made.attributes.add(key=key).value.string_value = value
        made.attributes.add(key="correlation_id").value.string_value = order
    with channel(demo.internal) as internal:
        stub: Any = TraceServiceStub(internal)  # type: ignore[no-untyped-call]
        eventually(lambda: stub.Export(request, timeout=30) is not None, "the trace sink takes spans")


def test_the_trace_of_an_order(demo: RunningMesh) -> None:
    trace_id, order = uuid.uuid4().hex, f"order-{uuid.uuid4().hex}"
    send(demo, trace_id, order, code="UNAVAILABLE")
    listed = demo.mesh("traces", "--attr", f"order.id={order}", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    (trace,) = json.loads(listed.stdout)
    assert (trace["trace_id"], trace["culprit_service"], trace["services"]) == (trace_id, "bank", ["till", "bank"])
    shown = demo.mesh("traces", "--cid", order)
    head, line = shown.stdout.splitlines()
    assert head.split()[:3] == ["TIME", "TRACE", "TOOK"]
    assert trace_id in line
    assert "bank bank.v1.Bank/Pay" in line
    for id_ in (trace_id, order):
        shown = demo.mesh("trace", id_)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert f"trace {trace_id}" in shown.stdout
        assert "└ bank bank.v1.Bank/Pay" in shown.stdout
    (whole,) = json.loads(demo.mesh("trace", trace_id, "--json").stdout)
    assert [span["service"] for span in whole["spans"]] == ["till", "bank"]
    assert len(whole["critical_path"]) == 2


def test_who_calls_whom_and_who_makes_the_latency(demo: RunningMesh) -> None:
    send(demo, uuid.uuid4().hex, "any", code="OK")
    edges = json.loads(demo.mesh("topology", "--service", "bank", "--json").stdout)
    assert {(edge["caller"], edge["callee"]) for edge in edges} == {("till", "bank")}
    shown = demo.mesh("topology", "--service", "bank")
    assert "till    →  bank" in shown.stdout
    slow = json.loads(demo.mesh("traces", "--latency", "--method", "Bank/Pay", "--json").stdout)
    assert [row["service"] for row in slow] == ["bank", "till"]
    shown = demo.mesh("traces", "--latency", "--service", "bank")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[1].startswith("bank     bank.v1.Bank/Pay")


def test_jaegers_service_by_reflection(demo: RunningMesh) -> None:
    send(demo, uuid.uuid4().hex, "any", code="OK")
    done = grpcurl(demo.control, "jaeger.api_v3.QueryService/GetServices")
    assert done.returncode == 0, done.stderr
    assert {"bank", "till"} <= set(json.loads(done.stdout)["services"])


def test_nothing_found_and_what_makes_no_sense(demo: RunningMesh) -> None:
    shown = demo.mesh("traces", "--cid", "nobody-has-this")
    assert (shown.returncode, shown.stdout) == (0, "")
    assert shown.stderr.startswith("mesh: no trace fits")
    for arguments, code, says in (
        (("trace", "nobody-has-this"), 1, "there is no trace"),
        (("trace", "f" * 32), 1, "there is no trace"),
        (("traces", "--code", "LATE"), 2, "mesh: --code: 'LATE' is none of gRPC's: OK,"),
        (("traces", "--min-duration", "long"), 2, "--min-duration"),
        (("topology", "--since", "yesterday"), 2, "--since"),
    ):
        shown = demo.mesh(*arguments)
        assert shown.returncode == code
        assert shown.stderr.count("\n") == 1
        assert says in shown.stderr


def commands() -> list[list[str]]:
    """Return the commands that docs/tracing.md shows."""
    text = (ROOT / "docs" / "tracing.md").read_text()
    return [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("mesh t")]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_what_the_docs_show(demo: RunningMesh, command: list[str]) -> None:
    shown = demo.mesh(*command)
    assert shown.returncode == 0, shown.stderr
