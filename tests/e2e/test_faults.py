"""Processes are killed for real, under load."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import grpc
import psutil
import pytest

from examples.shop.api.v1 import (
    CreateOrderRequest,
    InventoryStub,
    ListProductsRequest,
    ListStockRequest,
    OrdersStub,
    StorefrontStub,
)
from tests.e2e.harness import PATIENCE, RunningMesh, channel, eventually, instances, running_mesh

WORKERS = 16

pytestmark = pytest.mark.xdist_group("faults")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A shop of this module's own, to be broken: each test ends when what it broke works again."""
    with running_mesh(tmp_path_factory.mktemp("faults"), demo=True) as mesh:
        yield mesh


@dataclass
class Load:
    """Calls that are made over and over by WORKERS at once."""

    done: int = 0
    by: Counter[str] = field(default_factory=Counter)
    failures: list[grpc.aio.AioRpcError] = field(default_factory=list)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, name: str) -> None:
        self.done += 1
        self.by[name] += 1
        self._moved.set()

    async def further(self, calls: int) -> None:
        """Wait until so many more calls went well."""
        wanted = self.done + calls
        while self.done < wanted:
            self._moved.clear()
            await self._moved.wait()


@contextlib.asynccontextmanager
async def load_on(internal: str, *, orders: bool) -> AsyncIterator[Load]:
    """Load the edge's internal listener while the block runs."""
    load = Load()
    async with grpc.aio.insecure_channel(internal, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        taker, stock = OrdersStub(channel), InventoryStub(channel)

        async def worker(number: int) -> None:
            turn = 0
            while True:
                turn += 1
                try:
                    if orders:
                        # One order a worker, placed again and again: it takes no stock but the first time.
                        request = CreateOrderRequest(sku="tea", quantity=1, order_id=f"load-{number}")
                        load.count((await taker.CreateOrder(request)).taken_by)
                    else:
                        await stock.ListStock(ListStockRequest())
                        load.count("stock")
                except grpc.aio.AioRpcError as error:
                    load.failures.append(error)

        tasks = [asyncio.create_task(worker(number)) for number in range(WORKERS)]
        try:
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def server_of(shop: RunningMesh, instance: str) -> psutil.Process:
    """Return the process that serves as `instance` now: another one than when all was ready, where it was killed."""
    for process in psutil.Process(shop.process.pid).children():
        with contextlib.suppress(psutil.Error):
            if instance in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                return process
    raise AssertionError(f"nobody serves as {instance}")


def told(load: Load) -> list[tuple[str, str]]:
    return [(error.code().name, error.details() or "") for error in load.failures]


async def test_killing_an_instance_loses_at_most_the_calls_on_it(shop: RunningMesh) -> None:
    victim = server_of(shop, "orders-1")
    async with load_on(shop.internal, orders=True) as load:
        await load.further(200)
        assert set(load.by) == {"orders-1", "orders-2"}
        assert told(load) == []
        victim.kill()
        await load.further(600)
        # What was in flight on it, and nothing that began later.
        assert len(load.failures) <= WORKERS
        for error in load.failures:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, told(load)
            assert ("mesh-reason", "upstream_reset") in list(error.trailing_metadata()), told(load)
        # The supervisor brings it back, and it gets calls again.
        before = load.by["orders-1"]
        while load.by["orders-1"] == before:
            await load.further(20)
        assert len(load.failures) <= WORKERS, told(load)


async def test_killing_the_registry_loses_no_call(shop: RunningMesh) -> None:
    control = psutil.Process(shop.pid("control"))
    async with load_on(shop.internal, orders=False) as load:
        await load.further(100)
        control.kill()
        control.wait()
        await load.further(500)
        back = await asyncio.to_thread(
            eventually, lambda: set(instances(shop.control)) >= set(shop.summary["demo"]), "the registry is back"
        )
        assert back
        await load.further(100)
        assert told(load) == []
    # What was acknowledged before is there, and what registers now is seen.
    assert "control starts again" in shop.stderr or "control was killed by SIGKILL" in shop.stderr


async def test_killing_the_edge_brings_it_back_with_all_it_knew(shop: RunningMesh) -> None:
    psutil.Process(shop.pid("edge")).kill()

    def answers() -> bool:
        with channel(shop.public) as opened:
            return bool(StorefrontStub(opened).ListProducts(ListProductsRequest(), timeout=PATIENCE).products)

    await asyncio.to_thread(eventually, answers, "the edge is back")
    assert set(shop.summary["demo"]) <= (await asyncio.to_thread(instances, shop.internal)).keys()


async def test_hanging_instances_are_broken_off_and_heal(shop: RunningMesh) -> None:
    """A stopped process answers nothing: its breaker opens, callers go on with the other one, and it comes back."""
    victim = server_of(shop, "orders-1")
    async with grpc.aio.insecure_channel(shop.internal) as channel:
        taker = OrdersStub(channel)

        async def order(number: int, timeout: float) -> str:
            request = CreateOrderRequest(sku="mug", quantity=1, order_id=f"hang-{number % 8}")
            try:
                return (await taker.CreateOrder(request, timeout=timeout)).taken_by
            except grpc.aio.AioRpcError as error:
                return error.code().name

        victim.suspend()
        try:
            # Ten go to each: enough of them hang for the breaker, whose window wants twenty calls at least.
            first = Counter(await asyncio.gather(*(order(number, 1.0) for number in range(60))))
            assert set(first) <= {"orders-2", "DEADLINE_EXCEEDED"}
            assert first["DEADLINE_EXCEEDED"] >= 20
            then = Counter(await asyncio.gather(*(order(number, 30.0) for number in range(60))))
            assert then == {"orders-2": 60}
        finally:
            victim.resume()
        while await order(0, 30.0) != "orders-1":
            await asyncio.sleep(0.05)  # the breaker's own time has to pass
