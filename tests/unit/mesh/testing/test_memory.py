"""The control services in memory, by the mesh's own clients of the real ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from mesh.config.model import Subject, View
from mesh.config.watcher import ConfigWatcher
from mesh.discovery.errors import ReplacedError
from mesh.discovery.model import Directory, Health, Instance
from mesh.discovery.registration import Registration
from mesh.discovery.watcher import RegistryWatcher
from mesh.telemetry.kinds import LOGS, SPANS
from mesh.telemetry.record import Record, to_batch
from mesh.telemetry.shipper import Shipper
from mesh.telemetry.spans import SpanEvent, SpanLink, SpanRecord, to_span_batch
from mesh.testing import ManualClock
from mesh.testing.memory.control import MemoryControl

PATIENCE = 60.0
ORDERS = Instance("orders", "orders-1", ("127.0.0.1:1",), grpc_services=("shop.v1.Orders",), version="2")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def control(clock: ManualClock) -> AsyncIterator[MemoryControl]:
    async with MemoryControl(clock) as running:
        yield running


@contextlib.asynccontextmanager
async def running(*work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Seen:
    """What a watcher has put into force."""

    def __init__(self, control: MemoryControl) -> None:
        self._changed = asyncio.Event()
        self.watcher = RegistryWatcher(control.address, self._on_change)

    def _on_change(self, directory: Directory) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[Directory], bool]) -> Directory:
        async with asyncio.timeout(PATIENCE):
            while not condition(self.watcher.directory):
                await self._changed.wait()
        return self.watcher.directory


async def test_an_instance_comes_changes_and_goes(control: MemoryControl) -> None:
    seen, registration = Seen(control), Registration(control.address, ORDERS)
    async with running(seen.watcher.run()):
        await seen.until(lambda _: seen.watcher.connected)
        async with running(registration.run()):
            await registration.registered()
            found = (await seen.until(lambda now: bool(now.instances))).instances["orders", "orders-1"]
            assert (found.endpoints, found.version, found.health) == (ORDERS.endpoints, "2", Health.SERVING)
            registration.set_health(Health.NOT_SERVING, "busy")
            now = await seen.until(lambda now: now.instances[ORDERS.key].health is Health.NOT_SERVING)
            assert now.instances[ORDERS.key].health_reason == "busy"
            await control.registry.settled()
            assert seen.watcher.directory.revision == control.registry.revision
        # It said that it leaves, everybody acknowledged that, and it left.
        gone = await seen.until(lambda now: not now.instances)
        assert list(gone.services) == ["orders"]
        assert control.registry.instances == []


async def test_a_lease_ends_by_the_clock_and_is_taken_anew(control: MemoryControl, clock: ManualClock) -> None:
    seen, registration = Seen(control), Registration(control.address, ORDERS, ttl=3, drain=0)
    async with running(seen.watcher.run(), registration.run()):
        await registration.registered()
        first = registration.lease_id
        before = (await seen.until(lambda now: bool(now.instances))).instances[ORDERS.key].create_revision
        clock.advance(3)
        await control.registry.expire()
        again = await seen.until(
            lambda now: ORDERS.key in now.instances and now.instances[ORDERS.key].create_revision != before
        )
        assert again.revision > before
        assert registration.lease_id != first


async def test_who_takes_a_name_ends_the_other_lease(control: MemoryControl) -> None:
    first = Registration(control.address, ORDERS, ttl=1, drain=0)
    task = asyncio.create_task(first.run())
    await first.registered()
    async with running(Registration(control.address, ORDERS, drain=0).run()):
        with pytest.raises(ReplacedError, match="orders-1"):
            await asyncio.wait_for(task, PATIENCE)


async def test_a_configuration_reaches_who_follows_it(control: MemoryControl) -> None:
    views: asyncio.Queue[View] = asyncio.Queue()
    watcher = ConfigWatcher(
        control.address, Subject("orders", instance="orders-1"), lambda new, _: views.put_nowait(new)
    )
    async with running(watcher.run()), asyncio.timeout(PATIENCE):
        await watcher.ready()
        release = await control.config.publish("orders", {"limit": 7})
        while (view := await views.get()).release != release:
            pass
        assert await control.config.reported("orders", release) == {"orders-1": ""}
    assert view.content == {"limit": 7}


async def test_records_and_spans_arrive_as_they_were_sent(control: MemoryControl) -> None:
    records = [
        Record("placed", ts_ns=5, severity=9, service="orders", correlation_id="order-42", attributes={"n": 1}),
        Record("paid", ts_ns=6, severity=9, service="payments", correlation_id="order-42", attributes={"n": 2}),
    ]
    spans = [
        SpanRecord("a" * 32, "b" * 16, "shop.v1.Orders/Get", 1, 2, kind=2, service="orders", attributes={"k": "v"}),
        SpanRecord(
            *("a" * 32, "c" * 16, "process", 3, 4),
            links=[SpanLink("d" * 32, "e" * 16)],
            events=[SpanEvent(3, "retry", {"n": 1})],
        ),
    ]
    async with (
        Shipper(control.address, "test", kind=LOGS) as logs,
        Shipper(control.address, "test", kind=SPANS) as traces,
    ):
        logs.put(to_batch(records, 7))
        traces.put(to_span_batch(spans))
        async with asyncio.timeout(PATIENCE):
            await control.logs.pushed.until(lambda: len(control.logs.records) == 2)
            await control.traces.pushed.until(lambda: len(control.traces.spans) == 2)
    assert control.logs.records == records
    assert control.traces.spans[0] == SpanRecord(
        *("a" * 32, "b" * 16, "shop.v1.Orders/Get", 1, 2), kind=2, service="orders", attributes={"k": "v"}, **_EMPTY
    )
    assert control.traces.spans[1].links == [SpanLink("d" * 32, "e" * 16)]
    assert control.traces.spans[1].events == [SpanEvent(3, "retry", {"n": 1})]


_EMPTY: dict[str, Any] = {"events": [], "links": []}
