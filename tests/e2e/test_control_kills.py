"""kill -9 of the control process, again and again, under every kind of write that the registry knows.

12 rounds by default, for the sake of time; `MESH_KILL_ROUNDS=50` makes them 50 (about a minute).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.api.registry.v1 import (
    LEASE_STATE_LIVE,
    REMOVAL_CAUSE_DEREGISTERED,
    DeregisterRequest,
    KeepAliveRequest,
    ListRequest,
    UpdateRequest,
)
from tests.e2e.registry_harness import PATIENCE, control_process, registry_stub, running
from tests.e2e.test_registry_crash import Follower, registration

ROUNDS = int(os.environ.get("MESH_KILL_ROUNDS", "12"))
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


@pytest.mark.timeout(60 + 6 * ROUNDS)
async def test_nothing_acknowledged_is_lost_however_often_it_is_killed(tmp_path: Path) -> None:
    dice = random.Random(1)
    fleet = Fleet()
    async with control_process(tmp_path) as control, registry_stub(control) as stub:
        followers = [Follower(control) for _ in range(WATCHERS)]
        async with running(*(follower.run() for follower in followers)):
            for follower in followers:
                await follower.reached(1)
            async with running(*(fleet.run(stub, writer) for writer in range(WRITERS))):
                for _ in range(ROUNDS):
                    await fleet.acknowledged(dice.randrange(1, 60))
                    await control.kill()
                    await control.start()
                await fleet.acknowledged(1)
            # Those that were under way may still come to their end: wait until what is listed is what was watched.
            page = await stub.List(ListRequest(limit=5000), wait_for_ready=True)
            for follower in followers:
                await follower.reached(page.header.revision)
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
        # Each once, in order, none left out; what was acknowledged is among them.
        first = follower.responses[0].header.revision
        assert revisions == list(range(first + 1, revisions[-1] + 1))
        assert fleet.revisions <= set(revisions) | set(range(first + 1))
        removed = follower.removals()
        assert {cause for _, cause in removed} <= {REMOVAL_CAUSE_DEREGISTERED}
        assert fleet.left <= {instance_id for instance_id, _ in removed}
        assert len(removed) == len({instance_id for instance_id, _ in removed})
