"""`mesh collect` on real files and a real sink: nothing is lost and nothing is there twice, whoever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mesh.api.logsink.v1 import Filter, LogSinkStub, SearchRequest
from tests.e2e.registry_harness import AWAITED, PATIENCE, ROOT, ControlProcess

ROUNDS = int(os.environ.get("MESH_KILL_ROUNDS", "4"))


class Collecting:
    """A `mesh collect` process."""

    def __init__(self, control: ControlProcess, folder: Path, *arguments: str) -> None:
        self._command = (
            *(sys.executable, "-m", "mesh.cli", "collect", "--control", control.address),
            *("--places", str(folder / "places.json"), *arguments),
        )
        self.process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Collecting:
        self.process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def stop(self) -> None:
        """Ask it to end: killed, it would leave journalctl behind until that has something to say."""
        assert self.process is not None
        self.process.terminate()
        await self.process.communicate()

    async def ended(self) -> str:
        """Wait for its end and return what it said."""
        assert self.process is not None
        _, said = await asyncio.wait_for(self.process.communicate(), PATIENCE)
        assert self.process.returncode == 0, said.decode()
        return said.decode()


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[ControlProcess]:
    process = ControlProcess(tmp_path / "data", AWAITED)
    await process.start()
    try:
        yield process
    finally:
        await process.stop()


async def bodies(control: ControlProcess) -> list[str]:
    """Return all that is stored, in the order of its arrival."""
    found: list[Any] = []
    request = SearchRequest(filter=Filter(start_ns=1, end_ns=2**62), limit=5000, oldest_first=True)
    async with control.channel() as channel:
        stub: Any = LogSinkStub(channel)
        while True:
            page = await stub.Search(request, wait_for_ready=True)
            found += page.records
            request.cursor = page.cursor
            if not page.cursor:
                return [record.body for record in sorted(found, key=lambda record: record.row_id)]


async def arrived(control: ControlProcess, count: int) -> list[str]:
    async with asyncio.timeout(PATIENCE):
        while len(found := await bodies(control)) < count:
            await asyncio.sleep(0.1)
    return found


def write(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


async def test_a_file_over_renaming_and_truncation(control: ControlProcess, tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    write(log, "one", "two")
    async with Collecting(control, tmp_path, str(log), "--service", "orders"):
        await arrived(control, 2)
        write(log, "three", "Traceback (most recent call last):", "  File", "ValueError: x")
        await arrived(control, 3)
        with log.open("a") as still_open:
            log.rename(tmp_path / "app.log.1")
            still_open.write("written to the old one\n")
            still_open.flush()
            await arrived(control, 4)
            write(log, "the second file")
            await arrived(control, 5)
            still_open.write("and once more\n")
        await arrived(control, 6)
        # As logrotate's copytruncate does it, with a line that came in between.
        write(log, "just before")
        (tmp_path / "app.log.2").write_bytes(log.read_bytes())
        os.truncate(log, 0)
        write(log, "after truncation")
        found = await arrived(control, 8)
    assert found == [
        *("one", "two", "three\nTraceback (most recent call last):\n  File\nValueError: x"),
        *("written to the old one", "the second file", "and once more", "just before", "after truncation"),
    ]


async def test_files_that_were_rotated_while_nobody_looked(control: ControlProcess, tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    write(log, "first file, sent")
    async with Collecting(control, tmp_path, str(log), "--once") as collecting:
        await collecting.ended()
    write(log, "first file, not sent")
    log.rename(tmp_path / "app.log.2")
    write(log, "second file, never seen")
    log.rename(tmp_path / "app.log.1")
    write(log, "third file")
    for _ in range(2):
        async with Collecting(control, tmp_path, str(log), "--once") as collecting:
            await collecting.ended()
    assert await bodies(control) == [
        *("first file, sent", "first file, not sent", "second file, never seen", "third file")
    ]


async def test_standard_input(control: ControlProcess, tmp_path: Path) -> None:
    async with Collecting(control, tmp_path, "-", "--service", "piped") as collecting:
        assert collecting.process is not None
        assert collecting.process.stdin is not None
        collecting.process.stdin.write(b"one\ntwo \xff\n  goes on\n")
        await arrived(control, 2)
        collecting.process.stdin.write(b"no line break at the end")
        collecting.process.stdin.close()
        await collecting.ended()
    assert await bodies(control) == ["one", "two \ufffd\n  goes on", "no line break at the end"]
    assert await control.terminate() == (0, "")


async def test_the_journal(control: ControlProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journalctl of our own, which knows --after-cursor, since not every machine has a journal."""
    program = tmp_path / "journalctl"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys, json, time\n"
        "after = [int(one) for last, one in zip(sys.argv, sys.argv[1:]) if last == '--after-cursor']\n"
        "for n in range(after[0] + 1 if after else 1, 2000 if after else 1000):\n"
        "    print(json.dumps({'MESSAGE': f'entry {n}', '__CURSOR': str(n), 'PRIORITY': '4', '_HOSTNAME': 'h',\n"
        "        'SYSLOG_IDENTIFIER': 'app', '__REALTIME_TIMESTAMP': str(time.time_ns() // 1000)}), flush=True)\n"
        "time.sleep(600)\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with Collecting(control, tmp_path, "journald") as collecting:
        await arrived(control, 999)
        await collecting.stop()
    async with Collecting(control, tmp_path, "journald") as collecting:
        found = await arrived(control, 1999)
        await collecting.stop()
    assert found == [f"entry {n}" for n in range(1, 2000)]


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_kills_of_both_sides_under_load(control: ControlProcess, tmp_path: Path) -> None:
    """Each round kills the sink, the collector or both, while lines are written and files rotated."""
    choose = random.Random(7)
    log = tmp_path / "app.log"
    numbers = itertools.count()
    written: list[str] = []
    stopping = asyncio.Event()

    async def produce() -> None:
        while not stopping.is_set():
            lines = [f"line {next(numbers)}" for _ in range(choose.randrange(1, 40))]
            write(log, *lines)
            written.extend(lines)
            if choose.random() < 0.03:
                log.rename(tmp_path / f"app.log.{next(numbers):08d}")
            await asyncio.sleep(0.05)

    write(log, "begin")
    written.append("begin")
    producing = asyncio.create_task(produce())
    collecting = Collecting(control, tmp_path, str(log))
    try:
        for round_ in range(ROUNDS):
            async with collecting:
                # Until some of this round has arrived.
                await arrived(control, len(await bodies(control)) + choose.randrange(1, 100))
                if round_ % 3 != 1:
                    await control.kill()
                if round_ % 3 == 0:
                    await control.start()
                    await arrived(control, len(await bodies(control)) + 1)
            if round_ % 3 == 2:
                await control.start()
    finally:
        stopping.set()
        await producing
    async with collecting:
        found = await arrived(control, len(written))
    assert Counter(found) == Counter(written)


async def test_what_is_to_be_sent_once_must_be_there(control: ControlProcess, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("a\n")
    async with Collecting(control, tmp_path, "--once", str(tmp_path / "a.log"), str(tmp_path / "b.log")) as collecting:
        assert collecting.process is not None
        _, said = await asyncio.wait_for(collecting.process.communicate(), PATIENCE)
        assert (collecting.process.returncode, said.decode()) == (1, f"mesh: there is no file {tmp_path / 'b.log'}\n")
    # A pattern may fit nothing.
    async with Collecting(control, tmp_path, "--once", str(tmp_path / "*.txt")) as collecting:
        assert await collecting.ended() == ""


async def test_one_collector_a_places_file(control: ControlProcess, tmp_path: Path) -> None:
    write(tmp_path / "app.log", "one")
    async with Collecting(control, tmp_path, str(tmp_path / "app.log")):
        await arrived(control, 1)
        async with Collecting(control, tmp_path, str(tmp_path / "app.log")) as second:
            assert second.process is not None
            with contextlib.suppress(TimeoutError):
                _, said = await asyncio.wait_for(second.process.communicate(), PATIENCE)
            assert second.process.returncode == 1
            assert said.decode().count("\n") == 1
            assert "another mesh collect uses" in said.decode()
