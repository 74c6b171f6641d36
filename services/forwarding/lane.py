"""One signal on its way to one collector: bounded memory, then bounded disk, and again until it is answered.

Whoever stores telemetry never waits for it: what finds no room is dropped and counted. What was taken is sent in order.
Items are sent, and kept on disk, in groups whose contents never change: a group that is sent again, also by the next
process, is divided into the same requests, each with the number that it had, and another control process stores each
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mesh.telemetry.spool import Spool, left_behind
from services.forwarding.items import Item, exported, framed, unframed
from services.forwarding.options import ForwardOptions, Signal, Target
from services.forwarding.sending import RefusedError, Sender
from services.forwarding.split import split

# Requests of one group are numbered within a number of the group.
REQUESTS_A_GROUP = 10_000
ITEMS_A_GROUP = 512

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stats:
    """Records, by what became of them; and tries that failed."""

    sent: int = 0
    # For want of room, or because their file was damaged.
    dropped: int = 0
    # By the collector, for good.
    rejected: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class _Group:
    seq: int
    items: Sequence[Item]

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)

    @property
    def records(self) -> int:
        return sum(item.records for item in self.items)


class Lane:
    """Use as `async with`; `put` while it is open, from the event loop."""

    def __init__(self, target: Target, signal: Signal, options: ForwardOptions, me: str, folder: Path | None) -> None:
        """Send as the control process `me`; keep what waits too long in `folder`, where one is given."""
        self.target, self.signal = target, signal
        self._options = options
        self._sender = Sender(target, signal, options, me)
        self._producer = f"{me[:100]}-{signal.value}-{secrets.token_hex(8)}"
        self._root = folder if options.spool_bytes else None
        self._spool = Spool(folder / self._producer) if folder is not None and options.spool_bytes else None
        self._memory: deque[Item] = deque()
        # What is being sent from memory; its group must stay what it is.
        self._current: _Group | None = None
        # The number of the last group that is on disk as well while it is being sent.
        self._kept = 0
        self._seq = 0
        self.memory_bytes = 0
        # Held while groups move from memory to disk: they are in neither then.
        self._moving = asyncio.Lock()
        self._came, self._high, self._sent = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._said = ""
        self.stats = Stats()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._spill_when_high())]
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.close_seconds):
                while self._waiting:
                    self._sent.clear()
                    await self._sent.wait()
        # Not while one of them moves something: its thread would go on, and what it moves be nowhere.
        async with self._moving:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._spill_all()
        self.stats.dropped += sum(item.records for item in self._memory)
        if self._spool is not None:
            self._spool.close()
        await self._sender.close()

    @property
    def spool_bytes(self) -> int:
        return self._spool.size if self._spool is not None else 0

    def put(self, item: Item) -> bool:
        """Take an item; returns whether there was room for it. Never waits."""
        if self.memory_bytes + item.size > self._options.memory_bytes:
            self.stats.dropped += item.records
            return False
        self._memory.append(item)
        self.memory_bytes += item.size
        self._came.set()
        if self.memory_bytes > self._options.memory_bytes // 2:
            self._high.set()
        return True

    @property
    def _waiting(self) -> bool:
        return bool(self._current or self._memory or self._spool)

    async def _send(self) -> None:
        if self._root is not None:
            for spool in await asyncio.to_thread(lambda root: list(left_behind(root)), self._root):
                try:
                    await self._empty(spool)
                finally:
                    spool.close()
        while True:
            if self._spool is not None:
                await self._empty(self._spool)
            async with self._moving:
                # The disk has what came before.
                if self._spool:
                    continue
                group = self._current = self._next_group()
            if group is None:
                self._came.clear()
                await self._came.wait()
                continue
            await self._deliver(self._producer, group)
            async with self._moving:
                self.memory_bytes -= group.size
                self._current = None
                if self._spool and self._kept == group.seq:
                    await asyncio.to_thread(self._spool.drop)
            self._sent.set()

    async def _empty(self, spool: Spool) -> None:
        """Send what is on disk, the oldest first."""
        while spool:
            seq, data = spool.first, await asyncio.to_thread(spool.read)
            try:
                items = list(unframed(data or b""))
            except ValueError:
                items = []
            if items:
                await self._deliver(spool.folder.name, _Group(seq, items))
            else:
                _log.warning("%s: a file of what waited was damaged, and is left out", self._name)
            async with self._moving:
                await asyncio.to_thread(spool.drop)
            self._sent.set()

    async def _deliver(self, producer: str, group: _Group) -> None:
        """Return when the collector has answered all of it."""
        rejected = 0
        try:
            requests = await asyncio.to_thread(self._requests, group)
            for number, data in enumerate(requests):
                seq = group.seq * REQUESTS_A_GROUP + number
                count, why = await self._sender.send(data, producer, seq, group.items[0].via, self._retried)
                if count:
                    rejected += count
                    self._say(f"refused {count} records: {why}")
        except (RefusedError, ValueError) as error:
            self._say(f"refused {group.records} records: {error}")
            self.stats.rejected += group.records
            return
        rejected = min(rejected, group.records)
        self.stats.rejected += rejected
        self.stats.sent += group.records - rejected

    def _requests(self, group: _Group) -> list[bytes]:
        # protobuf joins messages by joining their bytes.
        joined = b"".join(map(exported, group.items))
        return split(self.signal, joined, self._options.request_bytes)

    def _next_group(self) -> _Group | None:
        """Take the oldest items that have come the same way, up to a group's size; called with `_moving` held."""
        items: list[Item] = []
        size = 0
        while self._memory and len(items) < ITEMS_A_GROUP:
            item = self._memory[0]
            if items and (size + item.size > self._options.group_bytes or item.via != items[0].via):
                break
            items.append(self._memory.popleft())
            size += item.size
        if not items:
            return None
        self._seq += 1
        return _Group(self._seq, items)

    async def _spill_when_high(self) -> None:
        """Move what waits to the disk when it is much, or when what is being sent is not answered at once.

        So a process that is killed takes with it no more than the last moments.
        """
        late: _Group | None = None
        while True:
            try:
                async with asyncio.timeout(self._options.keep_seconds):
                    await self._high.wait()
            except TimeoutError:
                before, late = late, self._current
                if late is None or late is not before:
                    continue
                async with self._moving:
                    await self._keep_current()
                    await self._spill()
                continue
            self._high.clear()
            async with self._moving:
                await self._spill()

    async def _keep_current(self) -> None:
        """Have what is being sent on disk as well."""
        group = self._current
        if group is not None and self._kept != group.seq and await self._write(group):
            self._kept = group.seq

    async def _spill(self) -> None:
        """Move what is not being sent to the disk, as long as there is room."""
        while self._spool is not None and self._spool.size < self._options.spool_bytes:
            group = self._next_group()
            if group is None:
                return
            if not await self._write(group):
                self._memory.extendleft(reversed(group.items))
                return
            self.memory_bytes -= group.size

    async def _spill_all(self) -> None:
        """At the end: what is being sent too, first, under the number that it has."""
        group, self._current = self._current, None
        if group is not None:
            self.memory_bytes -= group.size
            if self._kept != group.seq and not await self._write(group):
                self.stats.dropped += group.records
        await self._spill()

    async def _write(self, group: _Group) -> bool:
        spool = self._spool
        if spool is None:
            return False
        data = await asyncio.to_thread(framed, group.items)
        if spool.size + len(data) > self._options.spool_bytes:
            return False
        try:
            await asyncio.to_thread(spool.put, group.seq, data)
        except OSError as error:  # a full disk: then memory is what there is
            self._say(f"what waits for it cannot be kept on disk: {error}")
            return False
        return True

    @property
    def _name(self) -> str:
        return f"forwarding {self.signal.value} to {self.target.address}"

    def _retried(self, why: str) -> None:
        self.stats.retries += 1
        self._say(f"{why} (it is tried again)")

    def _say(self, what: str) -> None:
        """Say it once until something else is to be said."""
        if what != self._said:
            self._said = what
            _log.warning("%s: %s", self._name, what)
