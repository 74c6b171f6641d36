"""Several control processes on one etcd serve one fleet: services, watchers and edges move on when one dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.api.registry.v1 import ListRequest
from mesh.discovery.model import Directory, Instance
from mesh.discovery.registration import Registration
from mesh.discovery.watcher import RegistryWatcher
from tests.conformance_kv.etcd_server import running_etcd, url_of
from tests.e2e.harness import ANY_PORTS, Running
from tests.e2e.registry_harness import PATIENCE, ControlProcess, registry_stub, running
from tests.e2e.test_discovery import METHOD, NAME, server

SERVICE = "followed"


class EtcdControl(ControlProcess):
    """A control process whose state is in etcd."""

    def __init__(self, data_dir: Path, url: str) -> None:
        super().__init__(data_dir)
        self._url = url

    async def _spawn(self, *more: str, pass_fds: tuple[int, ...] = ()) -> asyncio.subprocess.Process:
        return await super()._spawn("--store", self._url, *more, pass_fds=pass_fds)


@pytest.fixture
async def controls(tmp_path: Path) -> AsyncIterator[list[EtcdControl]]:
    with running_etcd(tmp_path / "etcd") as members:
        started = [EtcdControl(tmp_path / str(number), url_of(members, "fleet")) for number in range(2)]
        try:
            await asyncio.gather(*(control.start() for control in started))
            yield started
        finally:
            for control in started:
                await control.stop()


class Seen:
    """What a watcher was told."""

    def __init__(self, target: str) -> None:
        self.revisions: list[int] = []
        self._changed = asyncio.Event()
        self.watcher = RegistryWatcher(target, self._on_change)

    async def instance(self, instance_id: str, *, there: bool = True) -> None:
        async with asyncio.timeout(PATIENCE):
            while ((SERVICE, instance_id) in self.watcher.directory.instances) is not there:
                self._changed.clear()
                await self._changed.wait()

    def _on_change(self, directory: Directory) -> None:
        self.revisions.append(directory.revision)
        self._changed.set()


def registered(target: str, instance_id: str, address: str = "127.0.0.1:1") -> Registration:
    instance = Instance(SERVICE, instance_id, (address,), grpc_services=(NAME,), public=True)
    return Registration(target, instance, ttl=3600)


async def test_clients_move_to_another_control_process(controls: list[EtcdControl]) -> None:
    target = ",".join(control.address for control in controls)
    seen = [Seen(target) for _ in range(4)]
    stays = [registered(target, f"stays-{number}") for number in range(4)]
    leases = []
    async with running(*(one.watcher.run() for one in seen), *(registration.run() for registration in stays)):
        for registration in stays:
            await registration.registered()
        leases = [registration.lease_id for registration in stays]
        for number, dies in enumerate(controls):
            await dies.kill()
            new = registered(target, f"new-{number}")
            async with running(new.run()):
                await new.registered()
                for one in seen:
                    await one.instance(f"new-{number}")
            for one in seen:
                await one.instance(f"new-{number}", there=False)
            await dies.start()
        # Nobody had to register again, and no watcher went back in time.
        assert [registration.lease_id for registration in stays] == leases
        for one in seen:
            assert one.revisions == sorted(set(one.revisions))
        async with registry_stub(controls[0]) as stub:
            listed = await stub.List(ListRequest(), wait_for_ready=True)
    names = [instance.instance_id for instance in listed.instances if instance.service != "mesh-control"]
    assert sorted(names) == [f"stays-{number}" for number in range(4)]


async def test_an_edge_moves_to_another_control_process(controls: list[EtcdControl], tmp_path: Path) -> None:
    target = ",".join(control.address for control in controls)
    edge = Running.start(tmp_path, "edge", "--control", target, *ANY_PORTS, "--access-log", "off", "--json")
    try:
        public = json.loads(await asyncio.to_thread(edge.next_line))["public"]
        async with grpc.aio.insecure_channel(public) as channel:
            for number, dies in enumerate(controls):
                await dies.kill()
                answer = f"answer {number}".encode()
                async with server(answer) as address:
                    registration = registered(target, f"one-{number}", address)
                    async with running(registration.run()):
                        await registration.registered()
                        assert await called(channel, answer)
                await dies.start()
    finally:
        edge.kill()


async def called(channel: Any, answer: bytes) -> bool:
    """Call through the edge until the answer is the one of the newest instance."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                if await channel.unary_unary(METHOD)(b"", timeout=5) == answer:
                    return True
            await asyncio.sleep(0.02)
