"""The sinks are killed and come back under load: calls notice nothing, and each has its span and its record, once."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil

from examples.shop.api.v1 import InventoryStub, ListStockRequest
from mesh.api.tracesink.v1 import GetCorrelationRequest, TraceSinkStub
from tests.e2e.harness import PATIENCE, RunningMesh, eventually, running_mesh

KILLS = 2
WORKERS = 4


@dataclass
class Load:
    """Calls that are made over and over; each has a correlation id of its own."""

    ids: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, stub: InventoryStub) -> None:
        for number in itertools.count():
            name = f"{uuid.uuid4().hex[:12]}-{number}"
            try:
                await stub.ListStock(ListStockRequest(), metadata=(("x-correlation-id", name),))
            except grpc.aio.AioRpcError as error:
                self.failures.append(str(error))
            self.ids.append(name)
            self._moved.set()

    async def further(self, calls: int) -> None:
        """Wait until so many more calls have ended."""
        wanted = len(self.ids) + calls
        async with asyncio.timeout(PATIENCE):
            while len(self.ids) < wanted:
                self._moved.clear()
                await self._moved.wait()


@asynccontextmanager
async def load_on(internal: str) -> AsyncIterator[Load]:
    load = Load()
    async with grpc.aio.insecure_channel(internal, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        tasks = [asyncio.create_task(load.run(InventoryStub(channel))) for _ in range(WORKERS)]
        try:
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def control_of(supervisor: psutil.Process) -> psutil.Process | None:
    """Return the control process as it is now."""
    return next((one for one in supervisor.children() if "control" in one.cmdline()), None)


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
            for _ in range(KILLS):
                await load.further(60)
                killing = asyncio.create_task(kill_control(supervisor, shop))
                await load.further(60)
                await killing
            await load.further(60)
        assert load.failures == []
        async with grpc.aio.insecure_channel(shop.internal) as channel:
            await all_once(TraceSinkStub(channel), load.ids)


async def all_once(sink: TraceSinkStub, ids: list[str]) -> None:
    """Wait until every call has a span and a record, and check that it has one of each."""

    async def counts(name: str) -> tuple[int, int]:
        items = (await sink.GetCorrelation(GetCorrelationRequest(correlation_id=name), timeout=PATIENCE)).items
        edge = [item.WhichOneof("item") for item in items if "mesh-edge" in (item.span.service, item.record.service)]
        return edge.count("span"), edge.count("record")

    found: dict[str, tuple[int, int]] = {}
    async with asyncio.timeout(PATIENCE):
        while missing := [name for name in ids if 0 in found.get(name, (0, 0))]:
            found.update({name: await counts(name) for name in missing})
    assert set(found.values()) == {(1, 1)}
