"""What others than an instance say of its health, on a real store: protection, holds and drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.api.registry.v1 import (
    HEALTH_DRAINING,
    HEALTH_NOT_SERVING,
    HEALTH_SERVING,
    HEALTH_STARTING,
    OPINION_SOURCE_DAMPING,
    OPINION_SOURCE_INSTANCE,
    OPINION_SOURCE_PROTECTION,
    WAITING_CAUSE_AWAY,
    WAITING_CAUSE_CANNOT,
    WAITING_CAUSE_PENDING,
    DrainResponse,
)
from services.registry.errors import UnknownInstanceError
from services.registry.watchers import CANNOT_SECONDS, Watcher
from tests.unit.services.registry.world import World, watching


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "kv.db")
    await made.start()
    yield made
    await made.stop()


async def until(world: World, revision: int) -> None:
    await world.registry._live.caught_up(revision)


async def test_it_gets_no_traffic_before_it_says_that_it_is_ready(world: World) -> None:
    lease = await world.register("a", health=HEALTH_STARTING, health_reason="loading the model")
    seen = world.instance("a")
    assert (seen.health, seen.health_reason, seen.serving_since_ms) == (HEALTH_STARTING, "loading the model", 0)
    world.clock.advance(5)
    await world.registry.keepalive(lease, HEALTH_SERVING)
    seen = world.instance("a")
    assert (seen.health, seen.health_reason) == (HEALTH_SERVING, "")
    assert seen.serving_since_ms - seen.registered_at_ms == 5000
    assert not seen.opinions  # it speaks for itself alone


async def test_when_most_expire_at_once_the_last_set_stays_in_force(world: World) -> None:
    leases = [await world.register(str(number), "shop.A") for number in range(10)]
    begin = world.registry.header.revision
    async with watching(world, start=begin + 1) as following:
        world.clock.advance(9)
        for lease in leases[:3]:
            await world.registry.keepalive(lease)
        await world.pass_time(1)
        await world.registry._live.catch_up()
        known = {str(number) for number in range(10)}
        least = 10
        # The last of the seven expiries is told together with what is kept.
        while world.registry.header.revision > begin:
            response = await following()
            begin = response.header.revision
            for change in response.changes.changes:
                if change.HasField("removed"):
                    known.discard(change.removed.instance_id)
                elif change.HasField("instance"):
                    known.add(change.instance.instance_id)
            least = min(least, len(known))
    assert known == {str(number) for number in range(10)}
    assert least >= 5  # half may die by itself; callers never had less
    seen = world.instance("7")
    assert (seen.protected, seen.health) == (True, HEALTH_SERVING)
    assert [opinion.source for opinion in seen.opinions] == [OPINION_SOURCE_INSTANCE, OPINION_SOURCE_PROTECTION]
    (service,) = world.registry.list("orders", 1, "").services
    assert "of 10 leases expired within 30 s" in service.protection.reason
    assert world.record() == (["shop.A"], False)


async def trip(world: World, count: int = 5) -> None:
    """Let all of `count` instances expire at once, and wait until they are kept."""
    for number in range(count):
        await world.register(str(number))
    await world.pass_time(10)
    await world.registry._live.catch_up()
    assert len(world.ids("orders")) == count


async def test_protection_ends_when_they_return(world: World) -> None:
    await trip(world)
    for number in range(4):
        await world.register(str(number))
        await world.registry.tend()
    assert world.instance("4").protected
    assert not world.instance("0").protected
    await world.register("4")
    await world.registry.tend()
    await world.registry._live.catch_up()
    (service,) = world.registry.list("orders", 1, "").services
    assert not service.HasField("protection")
    assert len(world.ids("orders")) == 5


async def test_protection_ends_after_its_time(world: World) -> None:
    await trip(world)
    world.clock.advance(599)
    await world.registry.tend()
    assert len(world.ids("orders")) == 5
    world.clock.advance(1)
    await world.registry.tend()
    await world.registry._live.catch_up()
    assert world.ids("orders") == []


async def test_protection_outlives_the_control_process_and_not_its_own_time(world: World) -> None:
    await trip(world)
    world.clock.advance(300)
    await world.restart()
    assert len(world.ids("orders")) == 5
    world.clock.advance(300)
    await world.registry.tend()
    await world.registry._live.catch_up()
    assert world.ids("orders") == []


async def test_who_leaves_by_itself_does_not_trip_it(world: World) -> None:
    leases = [await world.register(str(number)) for number in range(10)]
    for lease in leases[:8]:
        await world.registry.deregister(lease)
    await world.pass_time(10)
    await world.registry._live.catch_up()
    assert world.ids("orders") == []


async def test_a_drain_removes_what_is_kept_from_the_callers(world: World) -> None:
    await trip(world)
    await world.registry.drains.by_name(("orders", "3"), "")
    assert world.instance("3").health == HEALTH_DRAINING
    assert world.instance("2").health == HEALTH_SERVING


async def flap(world: World, lease: int, times: int) -> None:
    for _ in range(times):
        await world.registry.keepalive(lease, HEALTH_NOT_SERVING)
        await world.registry.keepalive(lease, HEALTH_SERVING)
    await world.registry.tend()
    await world.registry._live.catch_up()


async def test_who_changes_too_often_is_held_and_let_go(world: World) -> None:
    await world.register("sibling")
    lease = await world.register("a")
    await flap(world, lease, 5)
    assert world.instance("a").health == HEALTH_SERVING
    await flap(world, lease, 1)
    seen = world.instance("a")
    assert seen.health == HEALTH_NOT_SERVING
    assert seen.health_reason.startswith("it changed too often of late and is held back for ")
    (hold,) = (one for one in seen.opinions if one.source == OPINION_SOURCE_DAMPING)
    world.clock.advance((hold.until_ms - hold.since_ms) / 1000)
    await world.registry.tend()
    await world.registry._live.catch_up()
    assert world.instance("a").health == HEALTH_SERVING


async def test_registering_again_and_again_is_changing(world: World) -> None:
    await world.register("sibling")
    for _ in range(4):
        await world.register("a")
    for _ in range(3):
        await world.registry.deregister(await world.register("a"))
    await world.register("a")
    await world.registry.tend()
    await world.registry._live.catch_up()
    assert world.instance("a").health == HEALTH_NOT_SERVING


async def test_the_last_one_that_serves_is_never_held(world: World) -> None:
    lease = await world.register("a")
    await flap(world, lease, 20)
    assert world.instance("a").health == HEALTH_SERVING


async def steps(world: World, revision: int, seconds: float = 20) -> tuple[DrainResponse, list[DrainResponse]]:
    found = [step async for step in world.registry.drains.progress(("orders", "a"), revision, seconds)]
    return found[-1], found


async def test_a_drain_is_over_when_all_who_watch_have_put_it_into_force(world: World) -> None:
    await world.register("a")
    watchers = world.registry.watching.watchers
    edges = [Watcher(name, "peer", can_acknowledge=True) for name in ("edge-1", "edge-2", "other")]
    edges[2].service = "payments"  # hears nothing of it
    for edge in edges:
        watchers.join(edge)
    (_, revision) = await world.registry.drains.by_name(("", "a"), "maintenance")
    seen = world.instance("a")
    assert (seen.health, seen.health_reason) == (HEALTH_DRAINING, "maintenance")
    progress = world.registry.drains.progress(("orders", "a"), revision, 20)
    first = await anext(progress)
    assert {one.watcher for one in first.waiting} == {"edge-1", "edge-2"}
    assert {one.cause for one in first.waiting} == {WAITING_CAUSE_PENDING}
    watchers.acknowledge(edges[0], revision - 1)  # of something before
    watchers.acknowledge(edges[0], revision)
    second = await anext(progress)
    assert (second.acknowledged, [one.watcher for one in second.waiting], second.done) == (1, ["edge-2"], False)
    watchers.acknowledge(edges[1], revision + 5)
    last = [step async for step in progress][-1]
    assert (last.acknowledged, list(last.waiting), last.done) == (2, [], True)


async def test_who_does_not_acknowledge_is_named_when_the_time_is_over(world: World) -> None:
    lease = await world.register("a")
    watchers = world.registry.watching.watchers
    watchers.join(slow := Watcher("slow", "peer", can_acknowledge=True))
    watchers.join(gone := Watcher("gone", "peer", can_acknowledge=True))
    watchers.join(Watcher("", "ipv4:127.0.0.1:5"))
    _, revision = await world.registry.drains.by_lease(lease, "")
    driving = asyncio.create_task(steps(world, revision))
    await asyncio.sleep(0)
    watchers.leave(gone)
    world.clock.advance(CANNOT_SECONDS)
    watchers.acknowledge(slow, 0)
    world.clock.advance(20)
    last, _ = await asyncio.wait_for(driving, 30)
    assert last.done
    assert {(one.watcher, one.cause) for one in last.waiting} == {
        ("slow", WAITING_CAUSE_PENDING),
        ("gone", WAITING_CAUSE_AWAY),
        ("ipv4:127.0.0.1:5", WAITING_CAUSE_CANNOT),
    }


async def test_who_comes_back_with_what_is_wanted_has_acknowledged(world: World) -> None:
    lease = await world.register("a")
    watchers = world.registry.watching.watchers
    watchers.join(before := Watcher("edge", "peer", can_acknowledge=True))
    _, revision = await world.registry.drains.by_lease(lease, "")
    wait = watchers.wait("orders", revision, world.clock.now())
    watchers.leave(before)
    assert [one.cause for one in wait.waiting(world.clock.now())] == [WAITING_CAUSE_AWAY]
    watchers.join(Watcher("edge", "peer", can_acknowledge=True, acknowledged=revision))
    assert list(wait.waiting(world.clock.now())) == []
    assert wait.acknowledged == 1


async def test_a_drain_ends_with_a_new_registration_or_when_it_is_cancelled(world: World) -> None:
    lease = await world.register("a")
    await world.registry.drains.by_name(("orders", "a"), "")
    assert world.registry.is_drained(lease)
    await world.registry.keepalive(lease, HEALTH_SERVING)  # whatever it says itself
    assert world.instance("a").health == HEALTH_DRAINING
    await world.registry.drains.cancel(("orders", "a"))
    assert world.instance("a").health == HEALTH_SERVING
    assert not world.registry.is_drained(lease)
    await world.registry.drains.by_name(("orders", "a"), "")
    await world.restart()
    assert world.instance("a").health == HEALTH_DRAINING
    await world.register("a")
    assert world.instance("a").health == HEALTH_SERVING


async def test_a_name_that_is_not_there_or_not_clear(world: World) -> None:
    with pytest.raises(UnknownInstanceError, match="no instance 'a' is registered"):
        await world.registry.drains.by_name(("", "a"), "")
    await world.register("a")
    await world.register("a", service="payments")
    with pytest.raises(UnknownInstanceError, match="name one: orders/a, payments/a"):
        await world.registry.drains.by_name(("", "a"), "")
