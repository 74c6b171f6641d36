"""What others than an instance say of its health, on each driver and at two control processes at once.

Leases end by real time here, since etcd knows no other; what is tested closely with a clock that stands still is in
tests/unit/services/registry/test_states.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from mesh.api.registry.v1 import (
    EXPOSURE_INTERNAL,
    HEALTH_DRAINING,
    HEALTH_NOT_SERVING,
    HEALTH_SERVING,
    HEALTH_STARTING,
    OPINION_SOURCE_DAMPING,
    Instance,
)
from services.registry.damping import DampingOptions
from services.registry.domain import Registry, RegistryOptions
from services.registry.protection import ProtectionOptions
from tests.conformance_registry.conftest import OpenStore

PATIENCE = 30.0
SHORT, LONG = 2.0, 600.0
OPTIONS = RegistryOptions(
    # Released as soon as the least time is over.
    damping=DampingOptions(half_life_seconds=0.2, hold_above=5.0, release_below=4.9, min_seconds=2.0, max_seconds=3.0),
    # A busy machine may let leases of two seconds run out over many.
    protection=ProtectionOptions(window_seconds=600.0),
)


@pytest.fixture
async def fleet(open_store: OpenStore) -> AsyncIterator[tuple[Registry, Registry]]:
    """Two control processes."""
    async with (
        Registry(await open_store(), OPTIONS, me="one") as one,
        Registry(await open_store(), OPTIONS, me="two") as two,
    ):
        yield one, two


async def register(registry: Registry, name: str, ttl: float = LONG, **fields: object) -> int:
    wanted = {"endpoints": ["h:1"], "exposure": EXPOSURE_INTERNAL, "health": HEALTH_SERVING, "weight": 100, **fields}
    return (await registry.register(Instance(service="orders", instance_id=name, **wanted), ttl)).lease_id  # type: ignore[arg-type]


def known(registry: Registry) -> dict[str, Instance]:
    return {one.instance_id: one for one in registry.list("orders", 5000, "").instances}


def reason(registry: Registry) -> str:
    (service,) = registry.list("orders", 1, "").services
    return service.protection.reason


async def both(fleet: tuple[Registry, Registry], condition: Callable[[Registry], object]) -> None:
    """Wait until something is so at both."""
    async with asyncio.timeout(PATIENCE):
        for registry in fleet:
            while not condition(registry):
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def kept_alive(registry: Registry, *leases: int) -> AsyncIterator[None]:
    async def keep() -> None:
        while True:
            for lease in leases:
                await registry.keepalive(lease)
            await asyncio.sleep(SHORT / 5)

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_when_most_expire_all_control_processes_keep_them_until_they_return(
    fleet: tuple[Registry, Registry],
) -> None:
    one, two = fleet
    # Whose holders fall silent, half of them at each; three go on.
    for number in range(7):
        await register((one, two)[number % 2], f"lost-{number}", SHORT)
    for number in range(3):
        await register(one, f"stays-{number}")
    await both(fleet, lambda registry: sum(one.protected for one in known(registry).values()) >= 3)
    # One or two may have been let go before it was clear that it is most of them; they are back as well.
    await both(fleet, lambda registry: len(known(registry)) == 10)
    for registry in fleet:
        assert "leases expired within" in reason(registry)
        assert {one.health for one in known(registry).values()} == {HEALTH_SERVING}
    for number in range(7):
        await register(two, f"lost-{number}")
    await both(fleet, lambda registry: not reason(registry))
    await both(fleet, lambda registry: not any(one.protected for one in known(registry).values()))
    assert len(known(one)) == len(known(two)) == 10


async def test_a_deliberate_scale_down_is_none_of_that(fleet: tuple[Registry, Registry]) -> None:
    one, two = fleet
    leases = [await register(one, str(number)) for number in range(10)]
    await register(one, "dies", SHORT)
    for lease in leases[:8]:
        await two.deregister(lease)
    await both(fleet, lambda registry: known(registry).keys() == {"8", "9"})
    assert not reason(one)
    assert not reason(two)


async def test_who_changes_too_often_is_held_by_all_and_let_go(fleet: tuple[Registry, Registry]) -> None:
    one, two = fleet
    await register(one, "sibling")
    lease = await register(two, "a")
    await both(fleet, lambda registry: "a" in known(registry))
    # A hold may come, and be over, before all of these have been said.
    held: list[set[int]] = [set(), set()]

    def is_held(registry: Registry) -> bool:
        hold = [one for one in known(registry)["a"].opinions if one.source == OPINION_SOURCE_DAMPING]
        if hold:
            assert known(registry)["a"].health == HEALTH_NOT_SERVING
            assert known(registry)["a"].health_reason.startswith("it changed too often of late")
            held[fleet.index(registry)].add(hold[0].until_ms)
        return bool(held[fleet.index(registry)])

    async with asyncio.timeout(PATIENCE):
        while not (is_held(one) and is_held(two)):
            for registry in fleet:
                await registry.keepalive(lease, HEALTH_STARTING)
                await registry.keepalive(lease, HEALTH_SERVING)
                is_held(one), is_held(two)
            await asyncio.sleep(0)
    await both(fleet, lambda registry: known(registry)["a"].health == HEALTH_SERVING)
    assert known(one)["sibling"].health == HEALTH_SERVING


async def test_a_drain_and_the_time_of_its_beginning_are_the_same_for_all(fleet: tuple[Registry, Registry]) -> None:
    one, two = fleet
    lease = await register(one, "a", SHORT, health=HEALTH_STARTING, warm_up_seconds=60.0)
    await register(two, "b")
    async with kept_alive(two, lease):
        await two.keepalive(lease, HEALTH_SERVING)
        await both(fleet, lambda registry: known(registry)["a"].health == HEALTH_SERVING)
        began = {known(registry)["a"].serving_since_ms for registry in fleet}
        assert len(began) == 1
        assert min(began) >= known(one)["a"].registered_at_ms
        await one.drains.by_name(("orders", "a"), "maintenance")
        await both(fleet, lambda registry: known(registry)["a"].health == HEALTH_DRAINING)
        assert two.is_drained(lease)
        await two.drains.cancel(("orders", "a"))
        await both(fleet, lambda registry: known(registry)["a"].health == HEALTH_SERVING)
        assert {known(registry)["a"].serving_since_ms for registry in fleet} == began
    # Nobody renews it any more; one of two is no reason for protection.
    await both(fleet, lambda registry: known(registry).keys() == {"b"})
