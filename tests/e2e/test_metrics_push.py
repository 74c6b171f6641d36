"""Metrics pushed to a real control process: stored once over kills, ended with the instance; and its own metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from mesh.api.metrics.v1 import MetricsStub, QueryRequest
from mesh.api.registry.v1 import DeregisterRequest, Instance, RegisterRequest, RegistryStub
from mesh.clock import Clock
from mesh.telemetry import resources
from mesh.telemetry.metrics_push import MetricsPusher, PusherOptions
from mesh.testing import ManualClock
from tests.e2e.registry_harness import AWAITED, PATIENCE, ControlProcess, control_process

OPTIONS = PusherOptions(interval=0.1)


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[ControlProcess]:
    async with control_process(tmp_path / "data", AWAITED) as process:
        yield process


def pusher(
    control: ControlProcess, registry: CollectorRegistry, clock: Clock | None = None, **options: Any
) -> MetricsPusher:
    kept = PusherOptions(**{"interval": 0.1, **options})
    return MetricsPusher(control.address, registry, service="orders", instance="o-1", options=kept, clock=clock)


async def query(control: ControlProcess, promql: str) -> list[tuple[dict[str, str], float]]:
    async with control.channel() as channel:
        stub: Any = MetricsStub(channel)
        reply = await stub.Query(QueryRequest(query=promql), wait_for_ready=True, timeout=PATIENCE)
    return [(dict(one.labels), one.values[0]) for one in reply.answer.series]


async def becomes(control: ControlProcess, promql: str, values: list[float]) -> None:
    async with asyncio.timeout(PATIENCE):
        while sorted(value for _, value in await query(control, promql)) != values:
            await asyncio.sleep(0.05)


async def test_resources_are_pushed_and_end_with_the_pusher(control: ControlProcess) -> None:
    registry = CollectorRegistry()
    async with resources.measured(registry), pusher(control, registry) as pushing:
        await pushing.flush()
        ((labels, memory),) = await query(control, 'process_resident_memory_bytes{job="orders"}')
        assert (labels["instance"], memory > 1 << 20) == ("o-1", True)
        for name in ("process_event_loop_lag_seconds", "process_cpu_seconds_total", "node_load1"):
            assert len(await query(control, f'{name}{{job="orders",instance="o-1"}}')) == 1
    assert (pushing.stats.dropped, pushing.stats.refused) == (0, 0)
    assert await query(control, '{job="orders"}') == []
    assert await query(control, 'last_over_time(process_resident_memory_bytes{job="orders"}[5m])')


async def test_samples_are_there_once_over_kills_and_with_series_that_come_and_go(control: ControlProcess) -> None:
    registry = CollectorRegistry()
    ticks = Counter("ticks", "Ticks.", registry=registry)
    room = Gauge("room", "Room.", ["of"], registry=registry)
    # Only what the test takes is sampled, besides the first moment: the interval is longer than the test.
    clock = ManualClock(wall_ns=time.time_ns() - 120 * 10**9)
    async with pusher(control, registry, clock, interval=1000) as pushing:
        flushes = [asyncio.ensure_future(pushing.flush())]
        await flushes[0]
        clock.advance(1)
        for number in range(1, 31):
            ticks.inc()
            room.clear()
            room.labels(of=str(number)).set(number)
            if number in (8, 18):
                await control.kill()
            if number in (12, 22):
                await control.start()
            flushes.append(asyncio.ensure_future(pushing.flush()))
            await asyncio.sleep(0)
            clock.advance(1)
            if not 8 <= number < 12 and not 18 <= number < 22:
                await flushes[-1]
        await asyncio.gather(*flushes)
        assert pushing.stats.dropped == 0
        await becomes(control, "count_over_time(ticks_total[5m])", [31])
        await becomes(control, "ticks_total", [30])
        await becomes(control, "room", [30])
        await becomes(control, "sum(count_over_time(room[5m]))", [30])


async def test_what_waits_is_bounded_and_the_newest_stays(control: ControlProcess) -> None:
    registry = CollectorRegistry()
    ticks = Counter("ticks", "Ticks.", registry=registry)
    await control.kill()
    async with pusher(control, registry, interval=1000, max_waiting_samples=5) as pushing:
        for _ in range(20):
            ticks.inc()
            pushing._take(pushing._now_ms())
        assert (pushing._samples, pushing.stats.dropped) == (5, 15)
        await control.start()
        await pushing.flush()
        await becomes(control, "ticks_total", [20])


async def register(channel: grpc.aio.Channel, instance: str, ttl: float) -> int:
    stub: Any = RegistryStub(channel)
    entry = Instance(service="orders", instance_id=instance, endpoints=["127.0.0.1:1"])
    return int((await stub.Register(RegisterRequest(instance=entry, ttl_seconds=ttl))).lease_id)


async def test_pushed_series_end_when_the_instance_leaves_or_is_lost(control: ControlProcess) -> None:
    registry = CollectorRegistry()
    Gauge("room", "Room.", registry=registry).set(7)
    async with control.channel() as channel:
        for ttl in (60.0, 1.0):
            # It does not come to say goodbye, as when its process is killed.
            async with pusher(control, registry, interval=1000, close_seconds=0) as pushing:
                lease = await register(channel, "o-1", ttl)
                await pushing.flush()
                assert [value for _, value in await query(control, "room")] == [7]
                if ttl > 1:
                    stub: Any = RegistryStub(channel)
                    await stub.Deregister(DeregisterRequest(lease_id=lease))
                await becomes(control, 'room{job="orders",instance="o-1"}', [])


async def test_a_control_process_without_http_tells_of_itself(control: ControlProcess) -> None:
    await becomes(control, 'count(process_resident_memory_bytes{job="mesh-control"} > 1e6)', [1])
    await becomes(control, 'count({job="mesh-control",__name__=~"process_event_loop_lag_seconds|node_load1"})', [2])
