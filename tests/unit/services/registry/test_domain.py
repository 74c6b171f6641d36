from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.api.registry.v1 import (
    EXPOSURE_PUBLIC,
    HEALTH_DRAINING,
    LEASE_STATE_GONE,
    LEASE_STATE_LIVE,
    LEASE_STATE_REPLACED,
    REMOVAL_CAUSE_DEREGISTERED,
    REMOVAL_CAUSE_EXPIRED,
    Change,
    WatchResponse,
)
from services.registry.errors import LeaseLostError
from tests.unit.services.registry.world import World, watching


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "kv.db")
    await made.start()
    yield made
    await made.stop()


def what(response: WatchResponse) -> list[str]:
    def text(change: Change) -> str:
        match change.WhichOneof("change"):
            case "instance":
                return f"+{change.instance.instance_id}"
            case "removed":
                cause = {REMOVAL_CAUSE_DEREGISTERED: "-", REMOVAL_CAUSE_EXPIRED: "!"}[change.removed.cause]
                return f"{cause}{change.removed.instance_id}"
            case _:
                return f"={change.service.name}:{','.join(change.service.grpc_services)}"

    assert response.WhichOneof("update") == "changes"
    return [text(change) for change in response.changes.changes]


async def test_who_registers_is_listed_at_once_until_the_lease_ends(world: World) -> None:
    lease = await world.register("a")
    assert world.ids() == ["a"]
    await world.pass_time(9)
    assert await world.registry.keepalive(lease) == (LEASE_STATE_LIVE, 10)
    await world.pass_time(9)
    assert world.ids() == ["a"]
    async with watching(world, start=2) as following:
        await world.pass_time(1)
        assert what(await following()) == ["!a"]
    assert world.ids() == []
    assert await world.registry.keepalive(lease) == (LEASE_STATE_GONE, 0)
    with pytest.raises(LeaseLostError, match="unknown or has expired: register again"):
        await world.registry.update(lease, lambda _: None)


async def test_deregistering_removes_at_once_and_twice_is_no_error(world: World) -> None:
    lease = await world.register("a")
    async with watching(world, start=2) as following:
        await world.registry.deregister(lease)
        assert what(await following()) == ["-a"]
    assert world.ids() == []
    await world.registry.deregister(lease)
    await world.registry.deregister(12345)
    assert world.registry.header.revision == 2


async def test_a_replacement_ends_the_older_lease_and_its_holder_is_told(world: World) -> None:
    older = await world.register("a", version="1")
    newer = await world.register("a", version="2")
    assert await world.registry.keepalive(older) == (LEASE_STATE_REPLACED, 0)
    assert await world.registry.keepalive(newer) == (LEASE_STATE_LIVE, 10)
    with pytest.raises(LeaseLostError, match="another registration took"):
        await world.registry.update(older, lambda _: None)
    await world.registry.deregister(older)
    (instance,) = world.registry.list("", 10, "").instances
    assert (instance.version, instance.create_revision, instance.mod_revision) == ("2", 2, 2)
    await world.restart()
    assert await world.registry.keepalive(older) == (LEASE_STATE_REPLACED, 0)
    (instance,) = world.registry.list("", 10, "").instances
    assert instance.create_revision == 2
    # Once the one that took its place is gone, nobody is in its way.
    await world.registry.deregister(newer)
    assert await world.registry.keepalive(older) == (LEASE_STATE_GONE, 0)


async def test_replaced_leases_are_remembered_within_bounds(world: World) -> None:
    leases = [await world.register("a") for _ in range(20)]
    states = [(await world.registry.keepalive(lease))[0] for lease in leases]
    assert states == [LEASE_STATE_GONE] * 11 + [LEASE_STATE_REPLACED] * 8 + [LEASE_STATE_LIVE]


async def test_an_update_changes_what_it_names_and_nothing_else(world: World) -> None:
    lease = await world.register("a", "shop.A", version="1", zone="z")
    async with watching(world, start=2) as following:
        header, instance = await world.registry.update(lease, lambda given: setattr(given, "version", "2"))
        assert (header.revision, instance.version, instance.zone, instance.mod_revision) == (2, "2", "z", 2)
        assert instance.create_revision == 1
        assert (await following()).changes.changes[0].instance == instance
    await world.registry.update(lease, lambda given: setattr(given, "version", "2"))
    assert world.registry.header.revision == 2  # nothing changed
    await world.registry.keepalive(lease, HEALTH_DRAINING)
    assert world.registry.list("", 1, "").instances[0].health == HEALTH_DRAINING
    await world.registry.keepalive(lease, HEALTH_DRAINING)
    assert world.registry.header.revision == 3


async def test_a_service_is_what_its_instances_declare_and_is_remembered(world: World) -> None:
    first = await world.register("a", "shop.A", "shop.B")
    second = await world.register("b", "shop.B", "shop.C", exposure=EXPOSURE_PUBLIC)
    assert world.record() == (["shop.A", "shop.B", "shop.C"], True)
    async with watching(world, start=3) as following:
        await world.registry.deregister(second)
        assert what(await following()) == ["-b"]
        assert what(await following()) == ["=orders:shop.A,shop.B"]  # nobody asked for it: it follows
    assert world.record() == (["shop.A", "shop.B"], False)
    await world.registry.deregister(first)
    assert world.record() == (["shop.A", "shop.B"], False)  # the last known
    await world.register("c", "shop.D")
    assert world.record() == (["shop.D"], False)
    (record,) = world.registry.list("", 1, "").services
    assert record.create_revision == 1  # it is as old as ever


async def test_a_replacement_that_declares_less_shrinks_the_service(world: World) -> None:
    await world.register("a", "shop.A", "shop.B")
    await world.register("a", "shop.B")
    assert world.record() == (["shop.B"], False)
    assert world.registry.header.revision == 2


async def test_a_service_is_made_to_fit_after_a_restart(world: World) -> None:
    await world.register("a", "shop.A")
    await world.register("b", "shop.B")
    world.registry._live._tasks[1].cancel()  # as if killed before it could follow
    world.clock.advance(5)
    await world.registry.keepalive(next(iter(world.registry._view._leases)))
    await world.pass_time(5)
    await world.restart()
    async with watching(world, start=4) as following:
        assert what(await following()) == ["=orders:shop.A"]
    assert world.record() == (["shop.A"], False)


async def test_many_at_once_all_get_in(world: World) -> None:
    # All decide on the same state of the service, each with a name of its own: most have to decide again.
    leases = await asyncio.gather(*(world.register(f"i{number:02}", f"shop.S{number:02}") for number in range(40)))
    assert len(set(leases)) == 40
    assert world.ids() == [f"i{number:02}" for number in range(40)]
    assert world.record()[0] == [f"shop.S{number:02}" for number in range(40)]


async def test_the_same_id_from_many_at_once_leaves_one(world: World) -> None:
    leases = await asyncio.gather(*(world.register("a") for _ in range(8)))
    states = [(await world.registry.keepalive(lease))[0] for lease in leases]
    assert states.count(LEASE_STATE_LIVE) == 1
    assert states.count(LEASE_STATE_REPLACED) == 7


async def test_pages_are_ordered_and_hold_what_stays_exactly_once(world: World) -> None:
    leases = {}
    for service in ("orders-a", "orders", "payments"):  # as keys "orders-a/..." would come before "orders/..."
        for number in range(4):
            leases[service, str(number)] = await world.register(str(number), service=service)
    seen, token = [], ""
    while True:
        page = world.registry.list("", 2, token)
        assert bool(page.services) == (not token)
        seen += [(instance.service, instance.instance_id) for instance in page.instances]
        token = page.next_page_token
        if not token:
            break
        if len(seen) == 2:  # behind and ahead of where the reader is
            await world.registry.deregister(leases["orders", "0"])
            await world.registry.deregister(leases["orders-a", "1"])
            await world.register("00", service="orders")
    expected = sorted(leases)
    expected.remove(("orders-a", "1"))
    assert seen == expected
    page = world.registry.list("orders", 5000, "")
    assert [instance.instance_id for instance in page.instances] == ["00", "1", "2", "3"]
    assert [service.name for service in page.services] == ["orders"]
    assert page.next_page_token == ""


async def test_pages_stay_below_what_clients_take(world: World) -> None:
    for number in range(50):
        metadata = {f"k{entry}": "v" * 1024 for entry in range(64)}
        await world.register(f"{number:02}", metadata=metadata)
    seen, token, pages = [], "", 0
    while pages == 0 or token:
        page = world.registry.list("", 5000, token)
        assert page.ByteSize() < 4 << 20
        seen += [instance.instance_id for instance in page.instances]
        token, pages = page.next_page_token, pages + 1
    assert seen == [f"{number:02}" for number in range(50)]
    assert pages == 2


async def test_a_watch_begins_with_a_snapshot_and_goes_on_with_each_revision(world: World) -> None:
    lease = await world.register("a", "shop.A")
    async with watching(world) as following:
        first = await following()
        assert first.header == world.registry.header
        assert [instance.instance_id for instance in first.snapshot.instances] == ["a"]
        assert [service.name for service in first.snapshot.services] == ["orders"]
        assert not first.snapshot.compacted
        await world.register("b", "shop.A")
        await world.registry.deregister(lease)
        second, third = await following(), await following()
        assert (second.header.revision, what(second)) == (2, ["+b"])
        assert (third.header.revision, what(third)) == (3, ["-a"])


async def test_a_watch_of_one_service_hears_of_that_alone(world: World) -> None:
    await world.register("a", "shop.A")
    async with watching(world, "orders") as following:
        assert [instance.instance_id for instance in (await following()).snapshot.instances] == ["a"]
        await world.register("x", service="payments")
        await world.register("b", "shop.A")
        response = await following()
        assert (response.header.revision, what(response)) == (3, ["+b"])


async def test_a_watch_resumes_without_loss_or_repetition_even_after_a_restart(world: World) -> None:
    for instance_id in "abcd":
        await world.register(instance_id)
    await world.restart()
    await world.register("e")
    async with watching(world, start=3) as following:
        assert [what(await following()) for _ in range(3)] == [["+c"], ["+d"], ["+e"]]
    async with watching(world, start=6) as following:  # nothing missed: what comes next comes first
        await world.register("f")
        assert what(await following()) == ["+f"]


async def test_what_a_watcher_is_behind_with_comes_in_one_message_if_it_likes(world: World) -> None:
    for instance_id in "abc":
        await world.register(instance_id)
    await world.register("x", service="payments")
    await world.register("d")
    cluster_id = world.registry.header.cluster_id
    async with contextlib.aclosing(world.registry.watching.watch("orders", 2, cluster_id, batches=True)) as watch:
        response = WatchResponse.FromString((await asyncio.wait_for(anext(watch), 20)).data)
        assert response.header.revision == 5
        told = [(one.revision, one.changes.changes[0].instance.instance_id) for one in response.batch.revisions]
        assert told == [(2, "b"), (3, "c"), (5, "d")]
        await world.register("e")
        alone = WatchResponse.FromString((await asyncio.wait_for(anext(watch), 20)).data)
        assert what(alone) == ["+e"]


@pytest.mark.parametrize("when", ["before the start", "while away"])
async def test_a_watch_that_cannot_resume_says_so_and_begins_anew(tmp_path: Path, when: str) -> None:
    world = World(tmp_path / "kv.db", keep=5)
    await world.start()
    for number in range(20):
        await world.register(str(number))
    if when == "before the start":
        await world.restart()
    async with watching(world, start=3) as following:
        response = await following()
        assert response.snapshot.compacted
        assert len(response.snapshot.instances) == 20
        await world.register("next")
        assert what(await following()) == ["+next"]
    async with watching(world, start=world.registry.header.revision) as following:
        assert what(await following()) == ["+next"]
    await world.stop()


@pytest.mark.parametrize(("start", "cluster"), [(1, "another"), (1, ""), (99, None)])
async def test_a_place_that_is_not_in_this_history_begins_with_a_snapshot(
    world: World, start: int, cluster: str | None
) -> None:
    await world.register("a")
    async with watching(world, start=start, cluster=cluster) as following:
        assert (await following()).WhichOneof("update") == "snapshot"


async def test_a_silent_watch_gives_a_sign_of_life(tmp_path: Path) -> None:
    world = World(tmp_path / "kv.db", progress=0.01)
    await world.start()
    async with watching(world) as following:
        await following()
        response = await following()
        assert response.WhichOneof("update") == "progress"
        assert response.header == world.registry.header
    await world.stop()
