"""An application's own spans, made with the real OpenTelemetry SDK, are of the mesh's traces."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import mesh
from mesh.context import CallContext, current, entered
from mesh.sdk.logs import LogHandler
from mesh.sdk.otel import here
from mesh.telemetry.spans import CLIENT, SERVER
from tests.unit.mesh.sdk.helpers import Control, Lab, LabStub, add_lab, told, until

ABOUT = CallContext("order-7", "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", deadline=5.0)


class Exported:
    """A tracer of its own, and what it exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("test")

    def spans(self) -> dict[str, Any]:
        return {span.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def exported() -> Exported:
    return Exported()


async def test_one_trace_through_both(control: Control, exported: Exported) -> None:
    class Traced(Lab):
        async def do(self, request: bytes, context: Any) -> bytes:
            with exported.tracer.start_as_current_span("in the handler"):
                await asyncio.sleep(0)
                return await super().do(request, context)

    async with (
        mesh.join("labs", control=control.address, telemetry=False) as served,
        mesh.join("caller", control=control.address, telemetry=False) as client,
    ):
        served.add(add_lab, Traced())
        await served.start()
        await served.registered()
        stub = LabStub(client.channel("labs"))
        with exported.tracer.start_as_current_span("the job"):
            known = json.loads(await stub.Get(told(), wait_for_ready=True))
            replies = [reply async for reply in stub.List(told(times=1))]
            assert len(replies) == 1
        spans = exported.spans()
        job, inside = spans["the job"], spans["in the handler"]
        called = {span.name: span for span in client._spans.take(10) if span.kind == CLIENT}
        answered = {span.name: span for span in await until(lambda: served._spans.take(10)) if span.kind == SERVER}
        trace_id = f"{job.context.trace_id:032x}"
        for name, call in called.items():
            assert (call.trace_id, call.parent_span_id) == (trace_id, f"{job.context.span_id:016x}")
            assert (answered[name].trace_id, answered[name].parent_span_id) == (trace_id, call.span_id)
        assert len(called) == 2
        assert inside.context.trace_id == job.context.trace_id
        assert f"{inside.parent.span_id:016x}" in {span.span_id for span in answered.values()}
        assert known["correlation"] == trace_id


def test_what_the_work_is_about(exported: Exported) -> None:
    assert here() is None
    with entered(ABOUT):
        assert here() is ABOUT
        with exported.tracer.start_as_current_span("own") as span:
            known = here()
            assert known is not None
            assert known.span_id == f"{span.get_span_context().span_id:016x}"
            assert (known.correlation_id, known.deadline) == ("order-7", 5.0)
            assert current() is ABOUT
    with trace.use_span(trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)):
        assert here() is None


def test_log_records_name_the_application_s_span(exported: Exported) -> None:
    handler = LogHandler()
    with exported.tracer.start_as_current_span("own") as span:
        handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
    (record,) = handler.take(1)
    assert record.span_id == f"{span.get_span_context().span_id:016x}"
