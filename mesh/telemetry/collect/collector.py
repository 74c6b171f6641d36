"""The collector: every source that it was given, each followed by a task of its own."""

from __future__ import annotations

import asyncio
import datetime as dt
import glob
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import StartError
from mesh.options import require
from mesh.telemetry.collect.batches import Manner
from mesh.telemetry.collect.following import Following
from mesh.telemetry.collect.places import Places
from mesh.telemetry.collect.streams import JOURNAL, send_journal, send_stdin
from mesh.telemetry.formats.lines import Surroundings, parser
from mesh.telemetry.pusher import Sinks

STDIN = "-"
# How often a pattern is looked at for files that are new.
SCAN_SECONDS = 2.0
MAX_FILES = 1_000


@dataclass(frozen=True, slots=True)
class CollectOptions:
    """What a collector is told."""

    # Where the sink is, "HOST:PORT[,...]".
    control: str
    # Files, patterns of them, "-" for standard input, "journald".
    sources: tuple[str, ...]
    # Where the place in each file is kept.
    places: Path
    # The service and instance of records that name none; else the file's name and this machine's.
    service: str = ""
    instance: str = ""
    format: str = "auto"
    # Ends when it has sent what is there, instead of following.
    once: bool = False

    def __post_init__(self) -> None:
        parser(self.format)
        require(bool(self.sources), "collect: name a file, a pattern, - for standard input, or journald")
        require(not (self.once and JOURNAL in self.sources), "collect: --once does not work with journald")


class Collector:
    """Runs until it is cancelled, or all sources have ended."""

    def __init__(self, options: CollectOptions) -> None:
        """Take hold of the places file; `StartError` when another collector has it."""
        self._options = options
        self._places = Places(options.places)
        self._parse = parser(options.format)
        self._following: set[str] = set()

    async def run(self) -> None:
        """Send what is there, and what comes.

        Raises:
            StartError: a file that is to be sent once is not there; nothing has been sent then.

        """
        if self._options.once:
            for source in self._options.sources:
                # A pattern may well fit nothing yet.
                plain = source not in (STDIN, JOURNAL) and not glob.has_magic(source)
                if plain and not Path(source).exists():  # noqa: ASYNC240 - before anything is served
                    raise StartError(f"there is no file {source}")
        async with Sinks(self._options.control) as sinks:
            try:
                async with asyncio.TaskGroup() as group:
                    for source in self._options.sources:
                        group.create_task(self._run_source(source, sinks, group))
            finally:
                self._places.close()

    async def _run_source(self, source: str, sinks: Sinks, group: asyncio.TaskGroup) -> None:
        if source == STDIN:
            await send_stdin(self._manner(""), sinks)
        elif source == JOURNAL:
            await send_journal(self._places, self._manner("", "json"), sinks)
        else:
            await self._run_files(source, sinks, group)

    async def _run_files(self, pattern: str, sinks: Sinks, group: asyncio.TaskGroup) -> None:
        once = self._options.once
        while True:
            # A plain name is followed from before it exists.
            names = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207 - may be absolute
            for name in names:
                path = os.path.abspath(name)  # noqa: PTH100, ASYNC240 - of the name alone
                if path in self._following or len(self._following) >= MAX_FILES:
                    continue
                self._following.add(path)
                following = Following(Path(path), self._places, self._manner(Path(path).stem), sinks, once=once)
                group.create_task(following.run())
            if once or not glob.has_magic(pattern):
                return
            await asyncio.sleep(SCAN_SECONDS)

    def _manner(self, named: str, format_: str = "") -> Manner:
        options = self._options
        return Manner(
            parser(format_) if format_ else self._parse,
            lambda: Surroundings(_local_zone(), time.time_ns()),
            service=options.service or named,
            instance=options.instance or socket.gethostname(),
        )


def _local_zone() -> dt.tzinfo:
    zone = dt.datetime.now().astimezone().tzinfo
    assert zone is not None
    return zone
