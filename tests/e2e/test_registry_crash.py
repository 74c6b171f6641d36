"""The control process under kill -9: what it acknowledged is there, and watchers neither miss nor repeat."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from mesh.api.registry.v1 import (
    LEASE_STATE_GONE,
    LEASE_STATE_LIVE,
    REMOVAL_CAUSE_EXPIRED,
    Instance,
    KeepAliveRequest,
    ListRequest,
    RegisterRequest,
    RegistryStub,
    WatchRequest,
    WatchResponse,
)
from tests.e2e.registry_harness import PATIENCE, ControlProcess, control_process, registry_stub, running

IN_FLIGHT = 16


@dataclass
class Follower:
    """A watcher that resumes where it was, and remembers every message."""

    control: ControlProcess
    responses: list[WatchResponse] = field(default_factory=list)
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        while True:
            request = WatchRequest()
            if self.responses:
                last = self.responses[-1].header
                request = WatchRequest(start_revision=last.revision + 1, cluster_id=last.cluster_id)
            try:
                async with self.control.channel() as channel:
                    async for response in RegistryStub(channel).Watch(request):
                        self.responses.append(response)
                        self.grown.set()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)

    async def reached(self, revision: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while not self.responses or self.responses[-1].header.revision < revision:
                self.grown.clear()
                await self.grown.wait()

    def revisions(self) -> list[int]:
        return [response.header.revision for response in self.responses if response.HasField("changes")]

    def snapshots(self) -> int:
        return sum(response.HasField("snapshot") for response in self.responses)

    def removals(self) -> list[tuple[str, int]]:
        changes = [change for response in self.responses for change in response.changes.changes]
        return [(change.removed.instance_id, change.removed.cause) for change in changes if change.HasField("removed")]

    def registered(self) -> list[str]:
        # Some may have been faster than the first snapshot.
        found = [instance for response in self.responses for instance in response.snapshot.instances]
        found += [change.instance for response in self.responses for change in response.changes.changes]
        return [instance.instance_id for instance in found if instance.service == "orders"]


def registration(instance_id: str, ttl: float) -> RegisterRequest:
    instance = Instance(
        service="orders", instance_id=instance_id, endpoints=["127.0.0.1:1"], grpc_services=["s.Orders"]
    )
    return RegisterRequest(instance=instance, ttl_seconds=ttl)


async def test_nothing_acknowledged_is_lost_and_watchers_neither_miss_nor_repeat(tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    numbers = itertools.count()
    enough = asyncio.Event()

    async def register_on_and_on() -> None:
        while True:
            instance_id = f"i{next(numbers)}"
            try:
                reply = await stub.Register(registration(instance_id, 3600), timeout=PATIENCE)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)  # not acknowledged: may be there or not, once
                continue
            acknowledged[instance_id] = reply.header.revision
            if len(acknowledged) >= wanted:
                enough.set()

    async with control_process(tmp_path) as control, registry_stub(control) as stub:
        follower = Follower(control)
        wanted = 0
        async with running(follower.run(), *(register_on_and_on() for _ in range(IN_FLIGHT))):
            await follower.reached(1)
            for _ in range(4):
                wanted = len(acknowledged) + 60
                enough.clear()
                await asyncio.wait_for(enough.wait(), PATIENCE)
                await control.kill()
                await control.start()
        page = await stub.List(ListRequest(limit=5000), wait_for_ready=True)
        async with running(follower.run()):
            await follower.reached(page.header.revision)

    listed = {instance.instance_id: instance for instance in page.instances if instance.service == "orders"}
    assert acknowledged.keys() <= listed.keys()
    assert all(listed[name].mod_revision == revision for name, revision in acknowledged.items())
    # Every revision once, in order, from the one snapshot at the very beginning on.
    assert follower.snapshots() == 1
    first = follower.responses[0].header.revision
    assert follower.revisions() == list(range(first + 1, page.header.revision + 1))
    assert sorted(follower.registered()) == sorted(listed)


async def test_leases_go_on_counting_through_a_crash(tmp_path: Path) -> None:
    async with control_process(tmp_path) as control, registry_stub(control) as stub:
        follower = Follower(control)
        async with running(follower.run()):
            stays = await stub.Register(registration("stays", 2))
            leaves = await stub.Register(registration("leaves", 2))
            await follower.reached(leaves.header.revision)
            await control.kill()
            await control.start()
            call = stub.KeepAlive(wait_for_ready=True)

            async def keep() -> None:
                while True:
                    await call.write(KeepAliveRequest(lease_id=stays.lease_id))
                    assert (await call.read()).state == LEASE_STATE_LIVE
                    await asyncio.sleep(0.2)

            async with running(keep()) as (keeping,):
                async with asyncio.timeout(PATIENCE):
                    while not follower.removals():
                        follower.grown.clear()
                        await follower.grown.wait()
                assert not keeping.done()
            page = await stub.List(ListRequest(service="orders"))
            assert [instance.instance_id for instance in page.instances] == ["stays"]
            assert follower.removals() == [("leaves", REMOVAL_CAUSE_EXPIRED)]
            assert follower.snapshots() == 1
        late = stub.KeepAlive()
        await late.write(KeepAliveRequest(lease_id=leaves.lease_id))
        assert (await late.read()).state == LEASE_STATE_GONE


async def test_a_restart_replaces_the_entry_of_the_control_process_itself(tmp_path: Path) -> None:
    async with control_process(tmp_path) as control, registry_stub(control) as stub:

        async def own() -> list[Instance]:
            page = await stub.List(ListRequest(service="mesh-control"), wait_for_ready=True)
            return list(page.instances)

        (before,) = await own()
        assert list(before.endpoints) == [control.address]
        assert list(before.grpc_services)[:2] == ["mesh.registry.v1.Registry", "mesh.config.v1.Config"]
        await control.kill()
        await control.start()
        (after,) = await own()
        assert after.instance_id == before.instance_id
        assert after.create_revision > before.create_revision
