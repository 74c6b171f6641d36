"""kill -9 of the control process, and of the etcd below it, under every kind of write that registry and config know.

4 rounds by default, for the sake of time; `MESH_KILL_ROUNDS=50` makes them 50 (some minutes). An edge follows all the
while; how long after each return it had what was registered then is printed (`pytest -s`), not judged: a test may run
on a busy machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.api.config import v1 as config
from mesh.api.edge.v1 import EdgeStub, GetInfoRequest
from mesh.api.registry.v1 import (
    LEASE_STATE_LIVE,
    REMOVAL_CAUSE_DEREGISTERED,
    DeregisterRequest,
    KeepAliveRequest,
    ListRequest,
    UpdateRequest,
)
from tests.conformance_kv.etcd_server import EtcdMember, running_etcd, url_of
from tests.e2e.registry_harness import LATER, PATIENCE, ROOT, ControlProcess, control_process, registry_stub, running
from tests.e2e.test_control_on_etcd import EtcdControl
from tests.e2e.test_registry_crash import Follower, registration

ROUNDS = int(os.environ.get("MESH_KILL_ROUNDS", "4"))
WRITERS = 8
WATCHERS = 3


class Fleet:
    """Instances that register, change and leave, and what of it was acknowledged."""

    def __init__(self) -> None:
        self.revisions: set[int] = set()
        # By instance: its lease and last version, both acknowledged. One whose last call failed is in neither.
        self.live: dict[str, tuple[int, str]] = {}
        self.left: set[str] = set()
        self._grown = asyncio.Event()

    async def acknowledged(self, count: int) -> None:
        """Wait for `count` more."""
        wanted = len(self.revisions) + count
        async with asyncio.timeout(PATIENCE):
            while len(self.revisions) < wanted:
                self._grown.clear()
                await self._grown.wait()

    async def run(self, stub: Any, writer: int) -> None:
        for number in itertools.count():
            instance_id = f"w{writer}-{number}"
            try:
                await self._one_life(stub, instance_id, leaves=number % 3 == 0)
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                self.live.pop(instance_id, None)  # as it was, or as it was to be: nobody was told
                if isinstance(error, asyncio.CancelledError):
                    raise
                await asyncio.sleep(0.02)

    async def _one_life(self, stub: Any, instance_id: str, *, leaves: bool) -> None:
        registered = await stub.Register(registration(instance_id, 3600), timeout=PATIENCE)
        self._note(registered.header.revision)
        lease_id = registered.lease_id
        self.live[instance_id] = (lease_id, "")
        updated = await stub.Update(UpdateRequest(lease_id=lease_id, version="2"), timeout=PATIENCE)
        self._note(updated.header.revision)
        self.live[instance_id] = (lease_id, "2")
        if leaves:
            gone = await stub.Deregister(DeregisterRequest(lease_id=lease_id), timeout=PATIENCE)
            self._note(gone.header.revision)
            del self.live[instance_id]
            self.left.add(instance_id)

    def _note(self, revision: int) -> None:
        self.revisions.add(revision)
        self._grown.set()


class Documents:
    """A configuration that changes, and what of it was acknowledged."""

    def __init__(self) -> None:
        # By release: the number in its document.
        self.releases: dict[int, int] = {}

    async def run(self, stub: Any) -> None:
        for number in itertools.count(1):
            put = config.PutRequest(application="shop", text=f"n: {number}", author="test")
            publish = config.PublishRequest(application="shop", author="test", comment=str(number))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await stub.Put(put, timeout=PATIENCE)
                release = (await stub.Publish(publish, timeout=PATIENCE)).release.number
                self.releases[release] = number
            await asyncio.sleep(0.02)

    async def check(self, stub: Any) -> None:
        """Every release that was acknowledged is there, as it was published, and there is none too many."""
        for release, number in self.releases.items():
            asked = config.GetEffectiveRequest(application="shop", release=release)
            content = json.loads((await stub.GetEffective(asked, wait_for_ready=True)).effective.content_json)
            assert content["n"] == number
        last = (await stub.History(config.HistoryRequest(application="shop", limit=1))).releases[0].number
        assert last >= max(self.releases)


class EdgeProcess:
    """A real edge, and how far it is."""

    def __init__(self, process: asyncio.subprocess.Process, stub: Any) -> None:
        self._process = process
        self._stub = stub

    @classmethod
    @contextlib.asynccontextmanager
    async def following(cls, control: str, state: Path) -> AsyncIterator[EdgeProcess]:
        where = [text for name in ("public", "internal", "admin") for text in (f"--{name}", "127.0.0.1:0")]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mesh.cli", "edge", "--control", control, *where),
            *("--access-log", "off", "--state", str(state), "--grace", "0", "--json"),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout is not None
        try:
            addresses = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE))
            async with grpc.aio.insecure_channel(addresses["internal"]) as channel:
                yield cls(process, EdgeStub(channel))
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), PATIENCE)

    async def reached(self, revision: int) -> float:
        """Wait until its routes are those of `revision`, and return the seconds that took."""
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            while (await self._stub.GetInfo(GetInfoRequest())).registry_revision < revision:
                await asyncio.sleep(0.01)
        return time.monotonic() - began


async def registered_at_last(stub: Any, instance_id: str) -> Any:
    """Register, as clients do: again while the store is away."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return await stub.Register(registration(instance_id, 3600), timeout=PATIENCE, wait_for_ready=True)
            await asyncio.sleep(0.02)


class Victims:
    """What is killed: the control process and, where there is one, the etcd below it. Both are the same afterwards."""

    def __init__(self, control: ControlProcess, member: EtcdMember | None, dice: random.Random) -> None:
        self.control = control
        self._member = member
        self._dice = dice

    async def kill(self) -> None:
        """Kill one or both, and return when they serve again."""
        control, store = True, False
        if self._member is not None:
            control, store = self._dice.choice(((True, False), (False, True), (True, True)))
        if control:
            await self.control.kill()
        if store:
            assert self._member is not None
            await asyncio.to_thread(self._member.restart)
        if control:
            await self.control.start()


@contextlib.asynccontextmanager
async def victims(driver: str, folder: Path, dice: random.Random) -> AsyncIterator[Victims]:
    if driver == "sqlite":
        async with control_process(folder, LATER) as control:
            yield Victims(control, None, dice)
        return
    with running_etcd(folder / "etcd") as (member,):
        control = EtcdControl(folder / "data", url_of([member], "fleet"))
        try:
            await control.start()
            yield Victims(control, member, dice)
        finally:
            await control.stop()


@pytest.mark.parametrize("driver", ["sqlite", "etcd"])
@pytest.mark.timeout(120 + 8 * ROUNDS)
async def test_nothing_acknowledged_is_lost_however_often_it_is_killed(tmp_path: Path, driver: str) -> None:
    dice = random.Random(1)
    fleet = Fleet()
    documents, late = Documents(), list[tuple[float, float, int]]()
    async with (
        victims(driver, tmp_path, dice) as victim,
        registry_stub(control := victim.control) as stub,
        control.channel() as channel,
        EdgeProcess.following(control.address, tmp_path / "edge") as edge,
    ):
        configuration: Any = config.ConfigStub(channel)
        followers = [Follower(control) for _ in range(WATCHERS)]
        async with running(*(follower.run() for follower in followers)):
            for follower in followers:
                await follower.reached(1)
            writers = (fleet.run(stub, writer) for writer in range(WRITERS))
            async with running(*writers, documents.run(configuration)):
                for number in range(ROUNDS):
                    await fleet.acknowledged(dice.randrange(1, 60))
                    await victim.kill()
                    began = time.monotonic()
                    marked = await registered_at_last(stub, f"m{number}")
                    registered = time.monotonic() - began
                    await edge.reached(marked.header.revision)
                    late.append((time.monotonic() - began, registered, number))
                await fleet.acknowledged(1)
            # Those that were under way may still come to their end, before this one. (Its revision, not the list's: a
            # release may have made that one, and a watch tells nothing of releases.)
            last = await registered_at_last(stub, "last")
            page = await stub.List(ListRequest(limit=5000), wait_for_ready=True)
            await edge.reached(last.header.revision)
            await documents.check(configuration)
            for follower in followers:
                await follower.reached(last.header.revision)
        listed = {instance.instance_id: instance for instance in page.instances}
        call = stub.KeepAlive()
        for instance_id, (lease_id, version) in fleet.live.items():
            assert listed[instance_id].version == version
            await call.write(KeepAliveRequest(lease_id=lease_id))
            assert (await call.read()).state == LEASE_STATE_LIVE
    assert not fleet.left & listed.keys()
    for follower in followers:
        assert follower.snapshots() == 1, "it had to begin anew"
        revisions = follower.revisions()
        # Each once, in order; what was acknowledged is among them. (Revisions of the configuration are between.)
        first = follower.responses[0].header.revision
        assert revisions == sorted(set(revisions))
        assert fleet.revisions <= set(revisions) | set(range(first + 1))
        common = min(len(revisions), len(followers[0].revisions()))
        assert revisions[-common:] == followers[0].revisions()[-common:]
        removed = [one for one in follower.removals() if one[0].startswith("w")]
        assert {cause for _, cause in removed} <= {REMOVAL_CAUSE_DEREGISTERED}
        assert fleet.left <= {instance_id for instance_id, _ in removed}
        assert len(removed) == len({instance_id for instance_id, _ in removed})
    late.sort()
    print(  # noqa: T201 - what it must show
        f"\n{driver}: {ROUNDS} kills, {len(fleet.revisions)} registry writes and {len(documents.releases)} releases "
        f"acknowledged; the edge was up to date after p50 {late[len(late) // 2][0]:.2f} s, max {late[-1][0]:.2f} s; "
        "the slowest (with the part until a registration was acknowledged, and the round): "
        + ", ".join(f"{all_:.2f} ({part:.2f}, {number})" for all_, part, number in late[-3:])
    )
