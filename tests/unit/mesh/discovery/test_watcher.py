"""The watcher against a real registry that goes, comes back, and comes back empty."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.api.registry.v1 import FollowRequest, RegistryStub, WatchResponse
from mesh.discovery import disk, watcher
from mesh.discovery.disk import SnapshotFile
from mesh.discovery.model import Check, Directory, Health, Instance, Service
from mesh.discovery.registration import Registration
from mesh.discovery.watcher import RegistryWatcher
from mesh.testing.clock import ManualClock
from services.host import Host, Hosted
from services.registry.domain import Registry
from services.registry.servicer import SERVICE, add_registry
from services.storage.kv.embedded import EmbeddedStore

PATIENCE = 30.0


@contextlib.asynccontextmanager
async def serving(path: Path, address: str = "127.0.0.1:0") -> AsyncIterator[tuple[str, Registry]]:
    async with EmbeddedStore.open(path) as store, Registry(store) as registry:
        host = Host(address, [Hosted(SERVICE, lambda server: add_registry(registry, server))], option="--listen")
        where = await host.start()
        try:
            yield where, registry
        finally:
            await host.stop(0)


@contextlib.asynccontextmanager
async def running(work: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


class Seen:
    """What a watcher has put into force."""

    def __init__(self) -> None:
        self.directory = Directory.EMPTY
        self._grown = asyncio.Event()

    def __call__(self, directory: Directory) -> None:
        self.directory = directory
        self._grown.set()

    def ids(self) -> str:
        return "".join(sorted(name for service, name in self.directory.instances if service == "orders"))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self._grown.clear()
                await self._grown.wait()


def an_instance(name: str) -> Instance:
    return Instance("orders", name, (f"127.0.0.1:{1000 + ord(name)}",), grpc_services=("shop.v1.Orders",))


async def register(registry: Registry, *names: str) -> list[int]:
    from mesh.discovery.convert import instance_to_proto

    return [(await registry.register(instance_to_proto(an_instance(name)), 60)).lease_id for name in names]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "DISK_AFTER", 0.05)
    monkeypatch.setattr(disk, "WRITE_SECONDS", 0.01)


async def test_it_starts_from_the_disk_and_is_corrected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = tmp_path / "edge" / "registry.snapshot"
    async with serving(tmp_path / "kv.db") as (address, registry):
        await register(registry, *"ab")
        seen = Seen()
        async with running(asyncio.create_task(RegistryWatcher(address, seen, state=state).run())):
            await seen.until(lambda: seen.ids() == "ab")
    assert SnapshotFile(state).load() == seen.directory
    # Nobody answers: what was known last is in force, and says so.
    seen = Seen()
    made = RegistryWatcher(address, seen, state=state)
    with caplog.at_level(logging.WARNING):
        async with running(asyncio.create_task(made.run())):
            await asyncio.wait_for(made.synced(), PATIENCE)
            assert (seen.ids(), made.from_disk, made.connected) == ("ab", True, False)
            assert "starting with the last state" in caplog.text
            # It is back, and things have changed meanwhile.
            async with serving(tmp_path / "kv.db", address) as (_, registry):
                await register(registry, "c")
                await seen.until(lambda: seen.ids() == "abc")
                assert not made.from_disk


@pytest.mark.parametrize("damage", [b"", b"junk", None])
async def test_a_damaged_file_is_no_state(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "registry.snapshot"
    file = SnapshotFile(path)
    assert file.load() is None
    file.put(Directory("one", 7, {"orders": Service("orders")}, {("orders", "a"): an_instance("a")}))
    file._write()
    good = path.read_bytes()
    assert file.load() is not None
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]) if damage is None else damage)
    assert file.load() is None


def test_what_is_kept_is_all_that_callers_need(tmp_path: Path) -> None:
    one = Instance(
        *("orders", "a", ("h:1", "h:2"), "1.2", "eu-1", 7, {"tls": "on"}, ("s.A",)),
        public=True,
        health=Health.NOT_SERVING,
        health_reason="busy",
        warm_up_seconds=30,
        serving_since=1700000000.5,
        check=Check("s.A", 5, 1, 2, 3),
        protected=True,
        create_revision=3,
        mod_revision=9,
    )
    whole = Directory("one", 9, {"orders": Service("orders", ("s.A",), public=True, create_revision=1)}, {one.key: one})
    file = SnapshotFile(tmp_path / "x")
    file.put(whole)
    file._write()
    assert file.load() == whole
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


async def test_a_registry_that_comes_back_empty_wipes_nobody_out(tmp_path: Path) -> None:
    clock = ManualClock()
    seen = Seen()
    async with serving(tmp_path / "one.db") as (address, registry):
        await register(registry, *"abcd")
        made = RegistryWatcher(address, seen, clock=clock)
        watching = asyncio.create_task(made.run())
        await seen.until(lambda: seen.ids() == "abcd")
    async with running(watching), serving(tmp_path / "two.db", address) as (_, registry):
        cluster = registry.header.cluster_id
        await seen.until(lambda: seen.directory.cluster_id == cluster)
        assert (seen.ids(), made.held) == ("abcd", 4)
        await register(registry, "a")
        await seen.until(lambda: made.held == 3)
        assert seen.ids() == "abcd"
        clock.advance(60)
        await seen.until(lambda: seen.ids() == "a")


async def test_who_leaves_waits_until_the_watchers_have_put_it_into_force(tmp_path: Path) -> None:
    async with serving(tmp_path / "kv.db") as (address, _):
        order: list[str] = []
        seen = Seen()

        def apply(directory: Directory) -> None:
            found = directory.instances.get(("orders", "a"))
            order.append(found.health.name if found is not None else "gone")
            seen(directory)

        said: list[str] = []
        async with running(asyncio.create_task(RegistryWatcher(address, apply, name="edge-1").run())):
            registration = Registration(address, an_instance("a"), on_event=said.append, drain=20)
            keeping = asyncio.create_task(registration.run())
            await asyncio.wait_for(registration.registered(), PATIENCE)
            await seen.until(lambda: seen.ids() == "a")
            keeping.cancel()
            await asyncio.wait_for(asyncio.gather(keeping, return_exceptions=True), PATIENCE)
            # It was told that it may go, which is after the watcher had taken over that it leaves.
            assert "DRAINING" in order
            await seen.until(lambda: seen.ids() == "")
    assert order[-2:] == ["DRAINING", "gone"]
    assert said[-1] == "deregistered"
    assert not any("without a word" in sentence for sentence in said)


async def test_an_older_registry_is_watched_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_follow(channel: Any) -> object:
        class Older:
            Watch = RegistryStub(channel).Watch
            Follow = channel.stream_stream(
                "/mesh.registry.v1.Registry/Unheard", FollowRequest.SerializeToString, WatchResponse.FromString
            )

        return Older()

    monkeypatch.setattr(watcher, "RegistryStub", without_follow)
    async with serving(tmp_path / "kv.db") as (address, registry):
        await register(registry, "a")
        seen = Seen()
        async with running(asyncio.create_task(RegistryWatcher(address, seen).run())):
            await seen.until(lambda: seen.ids() == "a")


async def test_changes_come_into_force_together_where_that_is_dear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "LONGEST_REST", 2.0)
    clock, seen, taken = ManualClock(), Seen(), list[int]()

    def dear(directory: Directory) -> None:
        clock.advance(60.0)  # rests are as long as they may be
        taken.append(directory.revision)
        seen(directory)

    names = "abcdefghijklmnopqrst"
    async with serving(tmp_path / "kv.db") as (address, registry):
        following = RegistryWatcher(address, dear, clock=clock)
        async with running(asyncio.ensure_future(following.run())):
            await following.synced()
            for name in names:
                await register(registry, name)
            await seen.until(lambda: seen.ids() == names)
    assert taken == sorted(set(taken))
    assert len(taken) < len(names) // 2
