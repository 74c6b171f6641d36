"""The client's watcher against a real control process, which comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mesh.api.config import v1
from mesh.config.model import MissingError, Outcome, Subject, View
from mesh.config.snapshot import Snapshot
from mesh.config.watcher import ConfigWatcher
from mesh.discovery.errors import RefusedError
from services.config.keys import make_key
from tests.unit.services.config.helpers import Control, serving

SUBJECT = Subject("shop", "orders", "orders-1", "prod")


class Program:
    """An instance that notes what it is given."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[View] = asyncio.Queue()
        self.events: asyncio.Queue[str] = asyncio.Queue()

    def on_change(self, new: View, _: View) -> Outcome | None:
        self.seen.put_nowait(new)
        if new.get("bad", bool, default=False):
            raise ValueError("this is bad")
        return Outcome.PENDING_RESTART if new.get("later", bool, default=False) else None


@contextlib.asynccontextmanager
async def watching(target: str, program: Program, **more: Any) -> AsyncIterator[ConfigWatcher]:
    subject = more.pop("subject", SUBJECT)
    watcher = ConfigWatcher(target, subject, program.on_change, on_event=program.events.put_nowait, **more)
    running = asyncio.create_task(watcher.run())
    try:
        yield watcher
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def reported(control: Control, release: int, state: v1.AppliedState.ValueType) -> v1.Applied:
    """Wait for the report. (The service has no way to be told of reports: it is asked again.)"""
    while True:
        listed = await control.config.ListApplied(v1.ListAppliedRequest(application="shop"))
        for one in listed.applied:
            if (one.release, one.state) == (release, state):
                return one  # type: ignore[no-any-return]
        await asyncio.sleep(0.01)


async def test_changes_arrive_and_what_was_made_of_them_is_reported(tmp_path: Path) -> None:
    program = Program()
    async with serving(tmp_path) as control, watching(control.address, program) as watcher:
        assert (await program.seen.get()).release == 0
        await control.put("a: 1")
        await control.publish()
        assert (await program.seen.get()).get("a", int) == 1
        await reported(control, 1, v1.APPLIED_STATE_APPLIED)

        await control.put("a: 2\nbad: true")
        await control.publish()
        assert (await program.seen.get()).release == 2
        row = await reported(control, 2, v1.APPLIED_STATE_REJECTED)
        assert row.error == "ValueError: this is bad"
        assert watcher.current.get("a", int) == 1

        # Somebody else's affair: the same content under another number is as bad.
        await control.put("a: 1", service="payments")
        await control.publish()
        await reported(control, 3, v1.APPLIED_STATE_REJECTED)

        await control.put("a: 3\nlater: true")
        await control.publish()
        assert (await program.seen.get()).release == 4
        await reported(control, 4, v1.APPLIED_STATE_PENDING_RESTART)
        assert watcher.current.get("a", int) == 1

        await control.config.Rollback(v1.RollbackRequest(application="shop", to_release=1, author="ann"))
        await reported(control, 5, v1.APPLIED_STATE_APPLIED)
        assert program.seen.empty()  # it runs that already


async def test_it_resumes_and_goes_on_meanwhile(tmp_path: Path) -> None:
    program = Program()
    async with serving(tmp_path) as control:
        await control.put("a: 1")
        await control.publish()
        running = watching(control.address, program)
        watcher = await running.__aenter__()
        await watcher.ready()
        assert (await program.seen.get()).release == 1
        address = control.address
    assert "no control service answers" in await program.events.get()
    assert watcher.current.get("a", int) == 1
    async with serving(tmp_path, listen=address) as control:
        await reported(control, 1, v1.APPLIED_STATE_APPLIED)
        await control.put("a: 2")
        await control.publish()
        assert (await program.seen.get()).release == 2
        await running.__aexit__(None, None, None)
    assert program.seen.empty()


async def test_it_starts_with_its_snapshot(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "snapshot", make_key())
    async with serving(tmp_path) as control:
        await control.put("a: 1\nb: {$secret: x}")
        await control.publish()
        lease = await control.register("orders", "orders-1")
        program = Program()
        async with watching(control.address, program, snapshot=snapshot, lease=lambda: lease):
            assert (await program.seen.get()).get("b", str) == "x"
            await reported(control, 1, v1.APPLIED_STATE_APPLIED)
        address = control.address
    program = Program()
    async with watching(address, program, snapshot=snapshot) as watcher:
        await watcher.ready()
        assert (watcher.current.get("a", int), watcher.current.get("b", str)) == (1, "x")
        assert not watcher.connected


async def test_what_is_rejected_at_the_start_gives_way_to_the_last_good_one(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "snapshot")
    async with serving(tmp_path) as control:
        await control.put("a: 1")
        await control.publish()
        async with watching(control.address, Program(), snapshot=snapshot) as watcher:
            await watcher.ready()
            await reported(control, 1, v1.APPLIED_STATE_APPLIED)
        await control.put("a: 2\nbad: true")
        await control.publish()
        async with watching(control.address, Program(), snapshot=snapshot) as watcher:
            await watcher.ready()
            assert watcher.current.get("a", int) == 1
            await reported(control, 2, v1.APPLIED_STATE_REJECTED)


async def test_secrets_come_with_the_lease(tmp_path: Path) -> None:
    program = Program()
    leases = [0]
    async with serving(tmp_path) as control:
        await control.put("a: {$secret: x}")
        await control.publish()
        async with watching(control.address, program, lease=lambda: leases[-1]) as watcher:
            first = await program.seen.get()
            with pytest.raises(MissingError):
                first.get("a", str)
            leases.append(await control.register("orders", "orders-1"))
            watcher.refresh()
            assert (await program.seen.get()).get("a", str) == "x"
            assert watcher.current.checksum == first.checksum


async def test_large_content(tmp_path: Path) -> None:
    program = Program()
    async with serving(tmp_path) as control:
        await control.put("a: " + "x" * (70 * 1024))
        await control.publish()
        async with watching(control.address, program):
            assert len((await program.seen.get()).get("a", str)) == 70 * 1024


async def test_a_malformed_name_ends_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as control:
        watcher = ConfigWatcher(control.address, Subject("No"))
        with pytest.raises(RefusedError, match="application"):
            await watcher.run()
