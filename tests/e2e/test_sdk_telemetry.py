"""What a service on the SDK tells of itself is found again in the control plane, by the correlation id of a call."""

from __future__ import annotations

import asyncio
import functools
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest

import mesh
from mesh.api.metrics import v1 as metrics
from mesh.api.tracesink import v1 as tracesink
from tests.e2e.registry_harness import AWAITED, control_process
from tests.unit.mesh.sdk.helpers import LAB, Lab, LabStub, add_lab, told, until

log = logging.getLogger("test.front")


class Front(Lab):
    """Calls the one below."""

    def __init__(self, below: LabStub) -> None:
        super().__init__("front")
        self._below = below

    async def Get(self, request: bytes, context: Any) -> bytes:
        log.warning("asked", extra={"order": 7})
        # In a task of its own: what the call is about goes with it.
        return await asyncio.create_task(self._ask(request))

    async def _ask(self, request: bytes) -> bytes:
        answer: bytes = await self._below.Get(request)
        log.warning("answered")
        return answer


async def test_logs_spans_and_metrics_of_a_conversation(tmp_path: Path) -> None:
    async with control_process(tmp_path, AWAITED) as control, control.channel() as channel:
        async with (
            mesh.join("labs", control=control.address) as below,
            mesh.join("front", control=control.address) as front,
            mesh.join("caller", control=control.address) as caller,
        ):
            below.add(add_lab, Lab("below"))
            front.add(add_lab, Front(LabStub(front.channel("labs"))))
            for one in (below, front):
                await one.start()
                await one.registered()
            stub = LabStub(caller.channel("front"))
            metadata = (("x-correlation-id", "order-7"),)
            assert await stub.Get(told(), metadata=metadata, wait_for_ready=True)
            with pytest.raises(grpc.aio.AioRpcError, match="order-7"):
                await stub.Get(told("raise"), metadata=metadata)
        # What was not told yet is told at the end; and a little later all of it is found.
        records, spans = await until(functools.partial(told_of, channel, "order-7"), "records and spans")
        # The three are one process here, so each told of every record.
        of_front = {record.body: record for record in records if record.service == "front"}
        asked, answered = of_front["asked"], of_front["answered"]
        assert asked.scope == "test.front"
        assert '"order":7' in asked.attributes
        assert answered.trace_id
        assert any("the secret of the house" in record.attributes for record in records)
        by_id = {span.span_id: span for span in spans}
        assert {(span.service, span.rpc_status_code) for span in spans} == {
            (service, code) for service in ("caller", "front", "labs") for code in ("OK", "INTERNAL")
        }
        (inner,) = [span for span in spans if span.service == "labs" and span.rpc_status_code == "OK"]
        chain = [inner.service]
        while inner.parent_span_id:
            inner = by_id[inner.parent_span_id]
            chain.append(inner.service)
        assert chain == ["labs", "front", "front", "caller"]
        found = await until(functools.partial(calls_of, channel, "labs"), "the metrics")
        assert found == {"OK": 1.0, "INTERNAL": 1.0}


async def told_of(channel: grpc.aio.Channel, correlation_id: str) -> Any:
    """Return the records and spans of a conversation of two calls, once they are there."""
    sink: Any = tracesink.TraceSinkStub(channel)
    reply = await sink.GetCorrelation(tracesink.GetCorrelationRequest(correlation_id=correlation_id))
    spans = [item.span for item in reply.items if item.HasField("span")]
    records = [item.record for item in reply.items if item.HasField("record")]
    whole = len(spans) >= 8 and any(one.service == "front" and "passes on" in one.body for one in records)
    return (records, spans) if whole else None


async def calls_of(channel: grpc.aio.Channel, service: str) -> dict[str, float]:
    """Return how many calls a service answered, by code."""
    asking: Any = metrics.MetricsStub(channel)
    last = f'last_over_time(rpc_server_call_duration_seconds_count{{job="{service}",rpc_method="{LAB}/Get"}}[5m])'
    reply = await asking.Query(metrics.QueryRequest(query=last))
    return {one.labels["rpc_status_code"]: one.values[-1] for one in reply.answer.series}
