"""The sinks are killed under load, and come back: calls notice nothing, and each has its span and its record, once."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil

from examples.shop.api.v1 import InventoryStub, ListStockRequest
from mesh.api.tracesink.v1 import GetCorrelationRequest, TraceSinkStub
from mesh.edge import EDGE_SERVICE
from tests.e2e.harness import PATIENCE, RunningMesh, eventually, running_mesh

WORKERS = 2
# Under each correlation id.
CALLS = 500


@dataclass
class Load:
    """Calls that are made over and over, a number of them under each correlation id."""

    made: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    ending: bool = False
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, stub: Any) -> None:
        while not self.ending:
            cid = uuid.uuid4().hex
            for _ in range(CALLS):
                try:
                    await stub.ListStock(ListStockRequest(), metadata=(("x-correlation-id", cid),))
                except grpc.aio.AioRpcError as error:
                    self.failures.append(str(error))
                self.made[cid] += 1
                self._moved.set()

    async def further(self, calls: int) -> None:
        """Wait until so many more calls have ended."""
        wanted = self.made.total() + calls
        async with asyncio.timeout(PATIENCE):
            while self.made.total() < wanted:
                self._moved.clear()
                await self._moved.wait()


@asynccontextmanager
async def load_on(internal: str) -> AsyncIterator[Load]:
    load = Load()
    async with (
        grpc.aio.insecure_channel(internal, options=(("grpc.use_local_subchannel_pool", 1),)) as channel,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(WORKERS):
            tasks.create_task(load.run(InventoryStub(channel)))
        try:
            yield load
        finally:
            load.ending = True


def control_of(supervisor: psutil.Process) -> psutil.Process | None:
    """Return the control process as it is now."""
    for one in supervisor.children():
        with suppress(psutil.Error):  # it has ended meanwhile
            if "control" in one.cmdline():
                return one
    return None


async def kill_control(supervisor: psutil.Process, shop: RunningMesh) -> None:
    """Kill it, and wait until it is back."""
    before = control_of(supervisor)
    assert before is not None
    before.kill()

    def back() -> bool:
        now = control_of(supervisor)
        return now is not None and now.pid != before.pid and shop.mesh("logs", "--cid", "none").returncode == 0

    assert await asyncio.to_thread(eventually, back, "another control process")


async def test_every_call_has_its_span_once_whatever_becomes_of_the_sink(tmp_path: Path) -> None:
    with running_mesh(tmp_path, demo=True) as shop:
        supervisor = psutil.Process(shop.pid("control")).parent()
        assert supervisor is not None
        async with load_on(shop.internal) as load:
            await load.further(60)
            killing = asyncio.create_task(kill_control(supervisor, shop))
            await load.further(60)
            await killing
            await load.further(60)
        assert load.failures == []
        async with grpc.aio.insecure_channel(shop.internal) as channel:
            await all_once(TraceSinkStub(channel), load.made)


async def all_once(sink: Any, made: Counter[str]) -> None:
    """Wait until every call has its span and its record, and check that none of them is there twice."""
    for cid, calls in made.items():
        async with asyncio.timeout(PATIENCE):
            while True:
                asked = GetCorrelationRequest(correlation_id=cid, limit=4 * CALLS)
                items = (await sink.GetCorrelation(asked, timeout=PATIENCE)).items
                spans = [item.span.span_id for item in items if item.span.service == EDGE_SERVICE]
                records = [item.record.span_id for item in items if item.record.service == EDGE_SERVICE]
                if min(len(spans), len(records)) >= calls:
                    break
        assert len(spans) == len(records) == calls
        assert len(set(spans)) == calls
        assert set(spans) == set(records)
