"""The client side against a real control process that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from mesh.api.registry.v1 import DeregisterRequest, ListRequest, RegistryStub
from mesh.discovery.channel import control_channel
from mesh.discovery.errors import RefusedError, ReplacedError
from mesh.discovery.model import Directory, Health, Instance
from mesh.discovery.registration import Registration
from mesh.discovery.watcher import RegistryWatcher
from tests.e2e.registry_harness import PATIENCE, ControlProcess, control_process, registry_stub, running

ORDERS = Instance("orders", "a", ("127.0.0.1:1",), grpc_services=("shop.v1.Orders",), metadata={"k": "v"})
KEY = ("orders", "a")


class Eyes:
    """Sees every directory that a watcher reports."""

    def __init__(self, control: ControlProcess) -> None:
        self.seen: list[Directory] = []
        self._changed = asyncio.Event()
        self.watcher = RegistryWatcher(control.address, self._see)

    def _see(self, directory: Directory) -> None:
        self.seen.append(directory)
        self._changed.set()

    async def until(self, condition: Callable[[Directory], bool]) -> Directory:
        async with asyncio.timeout(PATIENCE):
            while not condition(self.watcher.directory):
                self._changed.clear()
                await self._changed.wait()
        return self.watcher.directory


class Ears:
    """Hears every event of a registration."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()

    async def until(self, words: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while words not in await self.heard.get():
                pass


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[ControlProcess]:
    async with control_process(tmp_path) as started:
        yield started


async def test_a_registration_is_seen_changes_and_leaves(control: ControlProcess) -> None:
    eyes = Eyes(control)
    registration = Registration(control.address, ORDERS)
    async with running(eyes.watcher.run(), registration.run()) as (_, registering):
        await asyncio.wait_for(registration.registered(), PATIENCE)
        directory = await eyes.until(lambda seen: KEY in seen.instances)
        assert directory.instances[KEY].metadata == {"k": "v"}
        assert directory.services["orders"].grpc_services == ("shop.v1.Orders",)
        assert eyes.watcher.connected
        registration.set_health(Health.NOT_SERVING)
        await eyes.until(lambda seen: seen.instances[KEY].health is Health.NOT_SERVING)
        registering.cancel()
        directory = await eyes.until(lambda seen: KEY not in seen.instances)
        assert "orders" in directory.services  # still known
    assert not eyes.watcher.connected


async def test_both_outlive_a_crash_of_the_registry(control: ControlProcess) -> None:
    eyes, ears = Eyes(control), Ears()
    registration = Registration(control.address, ORDERS, ttl=3, on_event=ears.heard.put_nowait)
    async with running(eyes.watcher.run(), registration.run()):
        await eyes.until(lambda seen: KEY in seen.instances)
        await asyncio.wait_for(registration.registered(), PATIENCE)  # the watcher may hear of it first
        lease, revision = registration.lease_id, eyes.watcher.directory.revision
        await control.kill()
        await ears.until("no control service answers")
        registration.set_health(Health.DRAINING)  # while nobody can be told
        assert KEY in eyes.watcher.directory.instances  # the last known goes on
        await control.start()
        await ears.until("the registration goes on")
        directory = await eyes.until(lambda seen: seen.instances[KEY].health is Health.DRAINING)
        assert registration.lease_id == lease
    revisions = [seen.revision for seen in eyes.seen]
    assert revisions == sorted(set(revisions))
    assert range(revision, directory.revision + 1) == range(revisions[revisions.index(revision)], revisions[-1] + 1)


async def test_a_lost_lease_is_made_good(control: ControlProcess) -> None:
    eyes, ears = Eyes(control), Ears()
    registration = Registration(control.address, ORDERS, ttl=1, on_event=ears.heard.put_nowait)
    async with running(eyes.watcher.run(), registration.run()), registry_stub(control) as stub:
        first = (await eyes.until(lambda seen: KEY in seen.instances)).instances[KEY]
        await asyncio.wait_for(registration.registered(), PATIENCE)
        await stub.Deregister(DeregisterRequest(lease_id=registration.lease_id))
        await ears.until("registering again")
        directory = await eyes.until(
            lambda seen: KEY in seen.instances and seen.instances[KEY].create_revision > first.create_revision
        )
        assert directory.cluster_id == eyes.seen[0].cluster_id


async def test_a_registry_that_has_forgotten_all_is_told_again(control: ControlProcess, tmp_path: Path) -> None:
    eyes = Eyes(control)
    registration = Registration(control.address, ORDERS, ttl=1)
    async with running(eyes.watcher.run(), registration.run()):
        before = await eyes.until(lambda seen: KEY in seen.instances)
        await control.kill()
        control.data_dir = tmp_path / "empty"
        await control.start()
        after = await eyes.until(lambda seen: seen.cluster_id != before.cluster_id and KEY in seen.instances)
        assert after.revision < before.revision + 3


async def test_who_is_replaced_stops(control: ControlProcess) -> None:
    older, newer = (Registration(control.address, ORDERS, ttl=1) for _ in range(2))
    async with running(older.run()) as (losing,):
        await older.registered()
        async with running(newer.run()) as (winning,):
            with pytest.raises(ReplacedError, match="another registration took 'orders' instance 'a'"):
                await asyncio.wait_for(losing, PATIENCE)
            assert not winning.done()


async def test_who_is_refused_stops(control: ControlProcess) -> None:
    registration = Registration(control.address, Instance("Orders", "a", ("h:1",)))
    with pytest.raises(RefusedError, match=r"instance\.service: 'Orders' must be"):
        await asyncio.wait_for(registration.run(), PATIENCE)


async def test_who_comes_first_waits_for_the_registry(control: ControlProcess) -> None:
    await control.kill()
    eyes, ears = Eyes(control), Ears()
    registration = Registration(control.address, Instance("orders", "", ("h:1",)), on_event=ears.heard.put_nowait)
    assert registration.instance_id
    async with running(eyes.watcher.run(), registration.run()):
        await ears.until("no control service answers")
        assert eyes.watcher.directory is Directory.EMPTY
        await control.start()
        await asyncio.wait_for(eyes.watcher.synced(), PATIENCE)
        await eyes.until(lambda seen: registration.instance.key in seen.instances)


async def test_a_watcher_of_one_service_sees_that_alone(control: ControlProcess) -> None:
    seen: list[Directory] = []
    watcher = RegistryWatcher(control.address, seen.append, service="orders")
    registration = Registration(control.address, ORDERS)
    async with running(watcher.run(), registration.run()):
        await asyncio.wait_for(watcher.synced(), PATIENCE)
        await asyncio.wait_for(registration.registered(), PATIENCE)
    assert all(service == "orders" for directory in seen for service in directory.services)


async def test_a_slow_connection_is_waited_for(control: ControlProcess) -> None:
    host, _, port = control.address.rpartition(":")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.sleep(0.3)  # a delay is the case: longer than the waits between attempts
            await asyncio.gather(copy(reader, back), copy(there, writer))
        finally:
            for end in (back, writer):
                end.close()
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()

    relays: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(
        lambda reader, writer: relays.add(asyncio.ensure_future(relay(reader, writer))), "127.0.0.1", 0
    )
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with control_channel(address) as channel:
            page = await cast("Any", RegistryStub(channel)).List(ListRequest())
        assert page.instances
    finally:
        server.close()
        for task in relays:
            task.cancel()
        await asyncio.gather(*relays, return_exceptions=True)
