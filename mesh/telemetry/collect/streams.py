"""Sources that are no files: standard input, and the journal of systemd."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import stat
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from mesh.errors import StartError
from mesh.telemetry.collect.batches import Manner, MovedError, Outbox
from mesh.telemetry.collect.lines import Cutter
from mesh.telemetry.collect.places import Place, Places
from mesh.telemetry.formats.events import Event, Joiner
from mesh.telemetry.pusher import Pusher, Sinks

CHUNK = 256 * 1024
JOIN_SECONDS = 1.0
JOURNAL = "journald"
_JOURNALCTL = ("journalctl", "--output=json", "--follow", "--all", "--no-pager")
# A line of journalctl: a message with all its fields.
_MAX_ENTRY = 4 << 20

_log = logging.getLogger(__name__)


async def send_stdin(manner: Manner, sinks: Sinks) -> None:
    """Send standard input until it ends. While the sink is away it is not read, which stops who writes it."""
    place = Place(STDIN_PATH, 0, "", 0, 0, f"collect-stdin-{secrets.token_hex(8)}")
    pusher = Pusher(sinks, place.producer)
    outbox = Outbox(pusher, place, manner, lambda: None)
    cutter, joiner = Cutter(), Joiner()
    try:
        async with contextlib.aclosing(_chunks()) as chunks:
            async for data in chunks:
                for line, end in cutter.feed(data):
                    if (event := joiner.add(line, end)) is not None and outbox.add(event):
                        await outbox.send()
                if not data and (event := joiner.flush()) is not None:
                    outbox.add(event)
                if not data:
                    await outbox.send()
        for line, end in cutter.last():
            if (event := joiner.add(line, end)) is not None:
                outbox.add(event)
        if (event := joiner.flush()) is not None:
            outbox.add(event)
        await outbox.send()
    finally:
        await pusher.close()


STDIN_PATH = "standard input"


async def _pieces(read: Callable[[], Coroutine[Any, Any, bytes]]) -> AsyncGenerator[bytes, None]:
    """Yield what `read` returns until that is empty, and b"" when nothing has come for a while."""
    reading = asyncio.ensure_future(read())
    try:
        while True:
            await asyncio.wait((reading,), timeout=JOIN_SECONDS)
            if not reading.done():
                yield b""
                continue
            if not (piece := reading.result()):
                return
            yield piece
            reading = asyncio.ensure_future(read())
    finally:
        reading.cancel()


async def _chunks() -> AsyncGenerator[bytes, None]:
    """Yield what comes on standard input, and b"" when nothing has come for a while."""
    fd = sys.stdin.fileno()
    if stat.S_ISREG(os.fstat(fd).st_mode):
        while data := os.read(fd, CHUNK):
            yield data
        return
    reader = asyncio.StreamReader(limit=CHUNK)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        async with contextlib.aclosing(_pieces(lambda: reader.read(CHUNK))) as pieces:
            async for piece in pieces:
                yield piece
    finally:
        transport.close()


async def send_journal(places: Places, manner: Manner, sinks: Sinks) -> None:
    """Send the journal of this machine from where it was left, at first from now on.

    Sequence numbers count entries: those that the sink has and the place on disk has not are skipped.
    """
    place = places.last(JOURNAL)
    if place is None:
        place = Place(JOURNAL, 0, "", 0, 0, f"collect-journal-{secrets.token_hex(8)}")
        places.add(place)
    pusher = Pusher(sinks, place.producer)
    cursors: dict[int, str] = {}

    def acknowledged() -> None:
        while cursors and min(cursors) <= place.offset:
            place.cursor = cursors.pop(min(cursors))
        places.save()

    outbox = Outbox(pusher, place, manner, acknowledged)
    try:
        while True:
            kept = place.offset
            cursors.clear()
            await outbox.resume()
            with contextlib.suppress(MovedError):
                await _send_entries(place, outbox, cursors, skip=max(0, place.offset - kept))
    finally:
        await pusher.close()


async def _send_entries(place: Place, outbox: Outbox, cursors: dict[int, str], *, skip: int) -> None:
    where = ("--after-cursor", place.cursor) if place.cursor else ("--lines=0",)
    number = place.offset - skip
    async with contextlib.aclosing(_entries((*_JOURNALCTL, *where))) as entries:
        async for entry in entries:
            if entry:
                number += 1
                if number <= place.offset:
                    continue
                text, cursor = journal_event(entry)
                cursors[number] = cursor
                if not outbox.add(Event(text, number)):
                    continue
            await outbox.send()


async def _entries(command: tuple[str, ...]) -> AsyncGenerator[bytes, None]:
    """Yield each line of the command's output, and b"" when none has come for a while."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, limit=_MAX_ENTRY
        )
    except FileNotFoundError as error:
        raise StartError("there is no journalctl here: journald cannot be collected") from error
    assert process.stdout is not None
    output = process.stdout
    try:
        async with contextlib.aclosing(_pieces(output.readline)) as pieces:
            async for piece in pieces:
                yield piece
        raise StartError(f"journalctl has ended with code {await process.wait()}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def journal_event(entry: bytes) -> tuple[str, str]:
    """Return an entry of the journal as a JSON line with the usual names, and its cursor."""
    values = json.loads(entry)
    message = values.get("MESSAGE")
    if isinstance(message, list):  # bytes that are not UTF-8
        message = bytes(message).decode("utf-8", "replace")
    unit = values.get("SYSLOG_IDENTIFIER") or values.get("_COMM") or ""
    known = {
        "ts": int(values.get("__REALTIME_TIMESTAMP", 0)),
        "level": _LEVELS.get(str(values.get("PRIORITY")), "info"),
        "message": message or "",
        "service": unit if isinstance(unit, str) else str(unit),
        "instance": values.get("_HOSTNAME", ""),
        "unit": values.get("_SYSTEMD_UNIT"),
        "pid": values.get("_PID"),
    }
    # What programs log themselves; the journal's own fields begin with an underscore.
    own = {name.lower(): value for name, value in values.items() if name[:1] != "_" and name not in _KNOWN}
    return json.dumps({**own, **{name: value for name, value in known.items() if value is not None}}), values.get(
        "__CURSOR", ""
    )


_LEVELS = dict(zip("01234567", ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"), strict=True))
_KNOWN = {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "SYSLOG_TIMESTAMP", "SYSLOG_RAW", "SYSLOG_FACILITY", "SYSLOG_PID"}
