"""The story of a call, told by the edge's spans and by those that services push: whose fault, all logs, whose time."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from examples.shop.api.v1 import FaultsStub, PlaceOrderRequest, SetFaultRequest, StorefrontStub
from tests.e2e.harness import PATIENCE, RunningMesh, channel, eventually, instances

# The services of an order come one after the other: each calls the next one, the edge only the first.
TELL = {"mesh-edge", "storefront", "orders", "inventory", "payments"}

pytestmark = pytest.mark.xdist_group("demo")


@contextlib.contextmanager
def fault(demo: RunningMesh, service: str, **what: Any) -> Iterator[None]:
    """Have the only instance of a service go wrong while the block runs."""
    (one,) = instances(demo.control, service).values()
    with channel(one.endpoints[0]) as opened:
        FaultsStub(opened).SetFault(SetFaultRequest(**what), timeout=PATIENCE)
        try:
            yield
        finally:
            FaultsStub(opened).SetFault(SetFaultRequest(), timeout=PATIENCE)


def order(demo: RunningMesh, cid: str, *metadata: tuple[str, str], name: str = "") -> grpc.StatusCode:
    """Place an order under a correlation id."""
    request = PlaceOrderRequest(sku="tea", quantity=1, order_id=name or cid)
    with channel(demo.public) as public:
        try:
            StorefrontStub(public).PlaceOrder(request, metadata=(("x-correlation-id", cid), *metadata), timeout=20)
        except grpc.RpcError as error:
            code = error.code()
            assert isinstance(code, grpc.StatusCode)
            return code
    return grpc.StatusCode.OK


def explained(demo: RunningMesh, given: str) -> dict[str, Any]:
    """Return the story as data, once every service has told of its part in it."""

    def found() -> dict[str, Any] | None:
        shown = demo.mesh("explain", given, "--json")
        story = json.loads(shown.stdout) if shown.returncode == 0 else {"timeline": []}
        spans = [one["span"] for one in story["timeline"] if "span" in one]
        ids = {span["span_id"] for span in spans}
        tops = [span for span in spans if span.get("parent_span_id") not in ids]
        return story if len(tops) == 1 and {span["service"] for span in spans} >= TELL else None

    story = eventually(found, f"the story of {given}")
    assert story is not None
    return story


def test_which_service_caused_the_fault(demo: RunningMesh) -> None:
    cid = uuid.uuid4().hex
    with fault(demo, "payments", error_rate=1.0, error_code="INTERNAL"):
        assert order(demo, cid) is not grpc.StatusCode.OK
    story = explained(demo, cid)
    culprit = story["culprit"]
    assert (culprit["how"], culprit["service"], culprit["instance"]) == ("failed", "payments", "payments-1")
    assert "with INTERNAL: payments-1 was told to fail" in culprit["why"]
    first = story["edge"][0]
    assert (first["method"], first["service"], first["instance"]) == (
        "shop.v1.Storefront/PlaceOrder",
        "storefront",
        "storefront-1",
    )
    assert (first["route"], first["matched"]) == ("", "the registry: it declares shop.v1.Storefront")
    assert (first["breaker"], first["attempts"], first["release"], first["listener"]) == ("closed", 1, 0, "public")
    # grpc core rounds a deadline up to three digits as it sends it.
    assert 0 < first["deadline_left_ms"] < first["deadline_ms"] <= 20_200
    shown = demo.mesh("explain", cid)
    assert (shown.returncode, shown.stderr) == (0, "")
    text = shown.stdout
    assert text.startswith(f"{cid}: shop.v1.Storefront/PlaceOrder failed with ")
    assert "LIKELY CULPRIT\n  payments: payments-1 failed in shop.v1.Payments/" in text
    for line in ("AT THE EDGE", "route     to storefront", "endpoint  storefront-1 at 127.0.0.1:", "breaker   closed"):
        assert line in text
    assert [hop["service"] for hop in story["edge"]] == ["storefront"], "the others are called directly"
    for line in (
        "| edge  shop.v1.Storefront/PlaceOrder",
        "|   storefront-1  shop.v1.Storefront/PlaceOrder",
        "|     storefront-1 → orders  shop.v1.Orders/CreateOrder",
        "→ payments  shop.v1.Payments/Charge",
        "payments-1  shop.v1.Payments/Charge",
    ):
        assert line in text


def test_which_service_makes_the_latency(demo: RunningMesh) -> None:
    cid = uuid.uuid4().hex
    with fault(demo, "inventory", latency_ms=400):
        assert order(demo, cid) is grpc.StatusCode.OK
    culprit = explained(demo, cid)["culprit"]
    assert (culprit["how"], culprit["service"], culprit["instance"]) == ("slow", "inventory", "inventory-1")
    assert "WHERE THE TIME WENT\n  inventory: inventory-1 took " in demo.mesh("explain", cid).stdout


def test_all_logs_of_one_order_are_in_their_places(demo: RunningMesh, tmp_path: Path) -> None:
    cid = uuid.uuid4().hex
    assert order(demo, cid) is grpc.StatusCode.OK
    for service in ("orders", "shipping"):
        log = tmp_path / f"{service}.log"
        log.write_text(json.dumps({"msg": f"{service} did it", "correlation_id": cid}) + "\n")
        places = str(tmp_path / f"{service}.json")
        collected = demo.mesh("collect", str(log), "--once", "--service", service, "--places", places)
        assert collected.returncode == 0, collected.stderr

    def found() -> list[str] | None:
        shown = demo.mesh("explain", cid)
        lines = [line for line in shown.stdout.splitlines() if " did it" in line]
        return lines if len(lines) == 2 else None

    lines = eventually(found, "log lines of two services") or []
    assert {line.rpartition("| LOG ")[2].partition("/")[0] for line in lines} == {"orders", "shipping"}


def test_an_order_is_found_by_its_own_id(demo: RunningMesh) -> None:
    cid, name = uuid.uuid4().hex, f"order-{uuid.uuid4().hex}"
    assert order(demo, cid, name=name) is grpc.StatusCode.OK

    def records() -> list[dict[str, Any]] | None:
        lines = demo.mesh("logs", "--attr", f"order.id={name}", "--json").stdout.splitlines()
        return [json.loads(line) for line in lines] if len(lines) >= 2 else None

    logged = eventually(records, "what orders and payments logged of the order") or []
    assert {(record["service"], record["correlation_id"]) for record in logged} == {("orders", cid), ("payments", cid)}

    def traces() -> list[dict[str, Any]] | None:
        found = json.loads(demo.mesh("traces", "--attr", f"order.id={name}", "--json").stdout)
        return found if found and set(found[0]["services"]) >= TELL else None

    (trace,) = eventually(traces, "the trace of the order") or []
    assert (trace["correlation_id"], trace["root_name"]) == (cid, "shop.v1.Storefront/PlaceOrder")
    spans = json.loads(demo.mesh("trace", trace["trace_id"], "--json").stdout)
    assert name in json.dumps(spans)


def test_spans_of_services_are_below_the_edges_and_a_trace_id_leads_to_all(demo: RunningMesh) -> None:
    cid, trace, parent = uuid.uuid4().hex, uuid.uuid4().hex, uuid.uuid4().hex[:16]
    assert order(demo, cid, ("traceparent", f"00-{trace}-{parent}-01")) is grpc.StatusCode.OK
    story = explained(demo, trace)
    assert story["correlation_id"] == cid
    spans = [one["span"] for one in story["timeline"] if "span" in one]
    assert {span["trace_id"] for span in spans} == {trace}
    assert spans[0]["parent_span_id"] == parent
    assert [one["depth"] for one in story["timeline"] if "span" in one][:3] == [0, 1, 2]
    innermost = next(span for span in spans if span["service"] == "inventory")
    now = time.time_ns()
    pushed = Span(
        trace_id=bytes.fromhex(trace),
        span_id=bytes.fromhex("ab" * 8),
        parent_span_id=bytes.fromhex(innermost["span_id"]),
        name="SELECT stock",
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=innermost["start_ns"],
        end_time_unix_nano=min(now, innermost["end_ns"]),
        status=Status(code=Status.STATUS_CODE_ERROR, message="the table is gone"),
        attributes=[
            KeyValue(key="peer.service", value=AnyValue(string_value="stockdb")),
            KeyValue(key="correlation_id", value=AnyValue(string_value=cid)),
        ],
    )
    resource = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value="inventory"))])
    with channel(demo.control) as opened:
        request = ExportTraceServiceRequest(
            resource_spans=[ResourceSpans(resource=resource, scope_spans=[ScopeSpans(spans=[pushed])])]
        )
        stub: Any = TraceServiceStub(opened)  # type: ignore[no-untyped-call]
        stub.Export(request, timeout=PATIENCE)

    def culprit() -> dict[str, Any] | None:
        found = explained(demo, cid)["culprit"]
        return found if found["how"] == "failed" else None

    found = eventually(culprit, "what was pushed")
    assert found is not None
    assert (found["service"], found["span_id"]) == ("stockdb", "ab" * 8)
    assert "the table is gone" in found["why"]


def test_what_nobody_knows_is_said_in_a_line(demo: RunningMesh) -> None:
    for given in ("nobody-has-this", "0" * 31 + "1"):
        shown = demo.mesh("explain", given)
        assert (shown.returncode, shown.stdout) == (1, "")
        assert shown.stderr.startswith(f"mesh: nothing is known of {given}")
        assert shown.stderr.count("\n") == 1


def test_every_edge_is_in_the_metrics_without_configuration_and_top_shows_who_is_called(demo: RunningMesh) -> None:
    assert order(demo, uuid.uuid4().hex) is grpc.StatusCode.OK

    def shown() -> dict[str, Any] | None:
        found = {row["service"]: row for row in json.loads(demo.mesh("top", "--json").stdout)}
        return found if {"storefront", "orders", "payments", "inventory"} <= found.keys() else None

    rows = eventually(shown, "the services in mesh top")
    assert rows is not None
    assert rows["orders"]["breaker"] == "closed"
    assert "mesh-control" not in rows
    assert "mesh-control" in {row["service"] for row in json.loads(demo.mesh("top", "--json", "--all").stdout)}

    # A method has a row once its numbers came twice.
    def methods() -> list[str] | None:
        table = demo.mesh("top", "--once", "--by", "method").stdout.splitlines()
        return table if any("shop.v1.Orders/" in line for line in table) else None

    table = eventually(methods, "the methods in mesh top")
    assert table is not None
    assert table[0].split()[:5] == ["SERVICE", "METHOD", "CALLS/S", "ERRORS", "IN"]
    eventually(lambda: "orders-1" in demo.mesh("top", "--once", "--by", "instance").stdout, "the instances in mesh top")
    (edge,) = instances(demo.control, "mesh-edge")
    answer = json.loads(demo.mesh("query", 'mesh_edge_telemetry_records_total{outcome="dropped"}', "--json").stdout)
    assert {(one["labels"]["instance"], one["labels"]["kind"], one["value"]) for one in answer["series"]} == {
        (edge, "logs", 0),
        (edge, "spans", 0),
    }
    for wrong in (("--by", "colour"), ("--over", "1s")):
        refused = demo.mesh("top", *wrong)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
