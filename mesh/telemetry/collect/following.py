"""Follows one file by its name, over renaming and truncation, and sends what is in it."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import logging
import os
import stat
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from mesh.telemetry.collect.batches import Manner, MovedError, Outbox
from mesh.telemetry.collect.lines import Cutter
from mesh.telemetry.collect.places import Place, Places
from mesh.telemetry.formats.events import Joiner
from mesh.telemetry.pusher import Pusher, Sinks

CHUNK = 256 * 1024
# How often a file at its end is looked at.
POLL_SECONDS = 0.25
# Lines of a stack trace come in one go: an event that has had no more for this long is complete.
JOIN_SECONDS = 1.0
# A file that has been renamed may still be written to by who has it open: it is read until it was quiet for so long.
LINGER_SECONDS = 30.0
# Rotated files that cannot be read as they are.
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")

_log = logging.getLogger(__name__)


class End(Enum):
    """Where to stop reading a file."""

    # When another file has its name: what is written to it still is for `LINGER`.
    REPLACED = 0
    # When nothing has been written to it for a while.
    LINGER = 1
    # At its end.
    NOW = 2


class Following:
    """One name; each file that ever has it is a producer of its own."""

    def __init__(self, path: Path, places: Places, manner: Manner, sinks: Sinks, *, once: bool) -> None:
        """Follow `path` for ever, or `once` to its end."""
        self._path = path
        self._places = places
        self._manner = manner
        self._sinks = sinks
        self._once = once
        # Producers of files that are being read.
        self._reading: set[str] = set()

    async def run(self) -> None:
        """Send what is there and what comes."""
        told = False
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    fd = os.open(self._path, os.O_RDONLY)
                except OSError as error:
                    if not told:
                        _log.warning("%s: %s; waiting for it", self._path, error.strerror)
                    if self._once:
                        return
                    told = True
                    await asyncio.sleep(POLL_SECONDS)
                    continue
                told = False
                await self._run_file(fd, group)
                if self._once:
                    return

    async def _run_file(self, fd: int, group: asyncio.TaskGroup) -> None:
        """Send one file until another one has its name, and close it."""
        try:
            await self._drain_siblings(fd)
            if not os.fstat(fd).st_size and not self._once:
                # It has no begin yet that it could be known by.
                await asyncio.sleep(POLL_SECONDS)
                return
            place = self._places.find(fd)
            if place is None:
                place = Place.new(str(self._path), fd)
                self._places.add(place)
            place.path = str(self._path)
            await self._send(fd, place, End.NOW if self._once else End.REPLACED)
            if not self._once and place.fits(fd):
                # Who wrote to it may do so for a while, as nobody has told it yet.
                group.create_task(self._linger(os.dup(fd), place))
                await asyncio.sleep(0)
        finally:
            os.close(fd)

    async def _linger(self, fd: int, place: Place) -> None:
        try:
            await self._send(fd, place, End.LINGER)
        finally:
            os.close(fd)

    async def _drain_siblings(self, fd: int) -> None:
        """Send the rest of files that had this name before: renamed, or copied before they were truncated."""
        last = self._places.last(str(self._path))
        if last is None:
            return
        copied = last if not last.fits(fd) else None
        known = False
        for sibling in _siblings(self._path):
            with contextlib.suppress(OSError), _opened(sibling) as old:
                place = self._places.find(old) or (copied if copied is not None and copied.fits(old) else None)
                if place is None:
                    if not known:
                        continue  # from before our time
                    # One that came and went while nobody was here.
                    place = Place.new(str(self._path), old)
                    self._places.add(place)
                known = True
                if os.fstat(old).st_size > place.offset and place.producer not in self._reading:
                    _log.info("%s: sending the rest of it from %s", self._path, sibling)
                    await self._send(old, place, End.NOW)

    async def _send(self, fd: int, place: Place, end: End) -> None:
        """Send the file from its place on, until it is truncated or what `end` says."""
        pusher = Pusher(self._sinks, place.producer)
        outbox = Outbox(pusher, place, self._manner, self._places.moved)
        self._reading.add(place.producer)
        try:
            while True:
                with contextlib.suppress(MovedError):
                    if end is End.REPLACED:
                        await outbox.resume()
                    await self._read(fd, place, outbox, end)
                    return
        finally:
            self._reading.discard(place.producer)
            await pusher.close()

    async def _read(self, fd: int, place: Place, outbox: Outbox, end: End) -> None:
        loop = asyncio.get_running_loop()
        cutter, joiner = Cutter(place.offset), Joiner()
        position, idle_since = place.offset, loop.time()
        while True:
            data = os.pread(fd, CHUNK, position)
            # Looked at after reading: what was read may be of what came after a truncation.
            truncated = os.fstat(fd).st_size < position + len(data) or not place.fits(fd)
            if data and not truncated:
                position += len(data)
                idle_since = loop.time()
                for line, after in cutter.feed(data):
                    if (event := joiner.add(line, after)) is not None and outbox.add(event):
                        await outbox.send()
                continue
            quiet = loop.time() - idle_since
            over = end is End.NOW or (end is End.LINGER and quiet > LINGER_SECONDS)
            if not truncated:
                place.grow(fd)
                for line, after in cutter.last() if over else ():
                    if (event := joiner.add(line, after)) is not None:
                        outbox.add(event)
            if (over or truncated or quiet >= JOIN_SECONDS) and (event := joiner.flush()) is not None:
                outbox.add(event)
            await outbox.send()
            if over or truncated or (end is End.REPLACED and self._replaced(fd)):
                return
            await asyncio.sleep(POLL_SECONDS)

    def _replaced(self, fd: int) -> bool:
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(fd))
        except OSError:
            return True  # gone: perhaps the next one is about to be made


def _siblings(path: Path) -> list[Path]:
    """Return the files that may be what had this name before, as rotation names them, oldest first."""
    found = []
    for one in path.parent.glob(f"{glob.escape(path.name)}?*"):
        with contextlib.suppress(OSError):
            if one.suffix not in _PACKED and stat.S_ISREG((status := one.stat()).st_mode):
                found.append((status.st_mtime_ns, one))
    return [one for _, one in sorted(found)]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)
