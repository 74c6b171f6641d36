"""What an instance and a watcher cost a control process in memory, at 1,000 and at 10,000 instances."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import uvloop

from benchmarks.kv_cases.control import control, mib
from benchmarks.kv_cases.writes import an_instance
from mesh.api.registry.v1 import RegisterRequest, RegistryStub, WatchRequest

WATCHERS = 1000
IN_FLIGHT = 64


def measure(*, quick: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    for instances in (1000,) if quick else (1000, 10_000):
        with control() as (address, process), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found |= runner.run(_measure(address, process, instances))
    return found


async def _measure(address: str, process: Any, instances: int) -> dict[str, float]:
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),))
            )
            for _ in range(20)
        ]
        stub: Any = RegistryStub(channels[0])
        # One of each first, so that what is loaded once is loaded.
        await stub.Register(RegisterRequest(instance=an_instance(0), ttl_seconds=3600))
        empty = mib(process)
        gate = asyncio.Semaphore(IN_FLIGHT)

        async def register(number: int) -> None:
            async with gate:
                await stub.Register(RegisterRequest(instance=an_instance(number), ttl_seconds=3600))

        await asyncio.gather(*(register(number) for number in range(1, instances)))
        filled = mib(process)
        # Each follows one service: a snapshot of everything for each would measure messages on their way.
        calls = [
            RegistryStub(channels[n % 20]).Watch(WatchRequest(service=f"service-{n % 20}")) for n in range(WATCHERS)
        ]
        for call in calls:
            await call.read()
        watched = mib(process)
        for call in calls:
            call.cancel()
    return {
        f"{instances} instances: empty, MiB": empty,
        f"{instances} instances: filled, MiB": filled,
        f"{instances} instances: KiB an instance": (filled - empty) * 1024 / instances,
        f"{instances} instances: with 1,000 watchers, MiB": watched,
        f"{instances} instances: KiB a watcher": (watched - filled) * 1024 / WATCHERS,
    }
