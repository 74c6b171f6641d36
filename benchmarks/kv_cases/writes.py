"""How many writes, and renewals, a second a store takes from callers that each wait for their answers."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable

from mesh.api.registry.v1 import HEALTH_SERVING, Instance
from services.registry.domain import Registry
from services.storage.kv.base import Grant, Store

VALUE = bytes(200)
KEYS = 10_000


async def puts(store: Store, *, in_flight: int, seconds: float) -> float:
    """Return puts a second of 200 bytes each over 10,000 keys."""
    numbers = itertools.count()
    return await _rate(lambda: store.put(f"key/{next(numbers) % KEYS}", VALUE), in_flight, seconds)


async def registrations(store: Store, in_flight: int, seconds: float) -> float:
    """Return registrations of new instances a second, of 20 services."""
    numbers = itertools.count()
    async with Registry(store) as registry:

        async def register() -> None:
            number = next(numbers)
            await registry.register(an_instance(number), 60.0)

        return await _rate(register, in_flight, seconds)


async def keepalives(store: Store, in_flight: int, seconds: float) -> float:
    """Return renewals a second, over 500 leases."""
    leases = [secrets.randbelow(2**62) + 1 for _ in range(500)]
    await asyncio.gather(*(store.grant(Grant(lease_id, 600.0)) for lease_id in leases))
    turns = itertools.cycle(leases)
    return await _rate(lambda: store.keepalive(next(turns)), in_flight, seconds)


def an_instance(number: int) -> Instance:
    return Instance(
        service=f"service-{number % 20}",
        instance_id=f"instance-{number}",
        endpoints=[f"10.0.{number % 250}.{number // 250 % 250}:7000"],
        version="1.2.3",
        zone="a",
        grpc_services=[f"shop.v1.Service{number % 20}"],
        health=HEALTH_SERVING,
        weight=100,
        metadata={"build": "4711"},
    )


async def _rate(call: Callable[[], Awaitable[object]], in_flight: int, seconds: float) -> float:
    done = 0
    end = time.perf_counter() + seconds

    async def one_after_another() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call()
            # The embedded store answers some calls without ever waiting.
            await asyncio.sleep(0)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
    return done / (time.perf_counter() - began)
