"""What a service on the SDK tells of itself is found again in the control plane, by the correlation id of a call."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest

import mesh
from mesh.api.logsink import v1 as logsink
from mesh.api.metrics import v1 as metrics
from tests.e2e.registry_harness import ControlProcess
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


async def test_logs_and_metrics_of_a_conversation(tmp_path: Path) -> None:
    control = ControlProcess(tmp_path)
    await control.start()
    try:
        async with (
            control.channel() as channel,
            mesh.join("labs", control=control.address) as below,
            mesh.join("front", control=control.address) as front,
            mesh.join("caller", control=control.address, telemetry=False) as caller,
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
            sink: Any = logsink.LogSinkStub(channel)

            async def found() -> Any:
                wanted = logsink.Filter(correlation_id="order-7")
                try:
                    reply = await sink.Search(logsink.SearchRequest(filter=wanted, limit=100))
                except grpc.aio.AioRpcError:  # it opens its store
                    return None
                bodies = [record.body for record in reply.records]
                return reply.records if any("failed" in body for body in bodies) and "answered" in bodies else None

            records = await until(found, "the records")
            # Both processes' parts are one process here, so each record came twice: once for each mesh joined.
            assert {record.service for record in records} == {"front", "labs"}
            (asked,) = [one for one in records if one.body == "asked" and one.service == "front"][:1]
            assert '"order":7' in asked.attributes
            assert asked.scope == "test.front"
            (answered,) = [one for one in records if one.body == "answered" and one.service == "front"][:1]
            assert asked.trace_id == answered.trace_id
            failed = [one for one in records if one.body.startswith(f"{LAB}/Get failed")]
            assert all("the secret of the house" in one.attributes for one in failed)
            asking: Any = metrics.MetricsStub(channel)

            async def counted() -> Any:
                query = f'rpc_server_call_duration_seconds_count{{job="labs",rpc_method="{LAB}/Get"}}'
                reply = await asking.Query(metrics.QueryRequest(query=query))
                return {one.labels["rpc_status_code"]: one.values[-1] for one in reply.answer.series}

            assert await until(counted, "the metrics") == {"OK": 1.0, "INTERNAL": 1.0}
    finally:
        await control.terminate()
