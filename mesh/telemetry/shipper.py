"""Ships batches to a sink: bounded memory, then bounded disk, and again until they are acknowledged.

Whoever makes records never waits: what finds no room is dropped and counted. What was taken is sent once, also over a
restart of the sink; and over one of this process, where there is a spool folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mesh.options import require
from mesh.telemetry.kinds import LOGS, SinkKind
from mesh.telemetry.pusher import Pusher, PushError, Sinks
from mesh.telemetry.spool import Spool, left_behind


@dataclass(frozen=True, slots=True)
class ShipperOptions:
    """How much may wait."""

    memory_bytes: int = 16 << 20
    # On disk, once more waits than half of that; 0 or no folder is none.
    spool_bytes: int = 256 << 20
    # Several processes may share it, and shippers of several kinds.
    spool: Path | None = None
    # How long the end may take to send what waits; what then still does goes to the spool.
    close_seconds: float = 2.0

    def __post_init__(self) -> None:
        require(self.memory_bytes >= 1 << 16, "a shipper needs at least 64 KiB of memory")
        require(self.spool_bytes >= 0 and self.close_seconds >= 0, "a shipper's bounds cannot be negative")


@dataclass(slots=True)
class ShipperStats:
    """Records, by what became of them."""

    shipped: int = 0
    dropped: int = 0
    # Refused by the sink as malformed.
    rejected: int = 0


class Shipper:
    """Use as `async with Shipper(...)`; `put` may be called by any thread while it is open."""

    def __init__(self, control: str, name: str, options: ShipperOptions | None = None, kind: SinkKind = LOGS) -> None:
        """Ship to the sink at `control`, "HOST:PORT[,...]", as a producer whose name begins with `name`."""
        self.kind = kind
        self._sinks = Sinks(control)
        self._options = options or ShipperOptions()
        self._producer = f"{name[:200]}-{secrets.token_hex(8)}"
        root = self._options.spool
        self._root = kind.spool(root) if root is not None else None
        self._spool = Spool(self._root / self._producer) if self._root and self._options.spool_bytes else None
        # Guards what `put` changes.
        self._guard = threading.Lock()
        # Sequence number, encoded batch, its records.
        self._memory: deque[tuple[int, bytes, int]] = deque()
        self._memory_bytes = 0
        self._seq = 0
        # Held while batches move from memory to disk: they are in neither then.
        self._moving = asyncio.Lock()
        # The same between threads: one that works for a task goes on when that is cancelled.
        self._threads = threading.Lock()
        self._came = asyncio.Event()
        self._high = asyncio.Event()
        self._sent = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self.stats = ShipperStats()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._spill_when_high())]
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.close_seconds):
                while self.waiting:
                    self._sent.clear()
                    await self._sent.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._spill)
        self.stats.dropped += sum(records for _, _, records in self._memory)
        if self._spool is not None:
            self._spool.close()
        await self._sinks.__aexit__()

    @property
    def waiting(self) -> bool:
        """Whether anything is not acknowledged."""
        return bool(self._memory or self._spool)

    def put(self, batch: Any) -> bool:
        """Take a batch of the kind; returns whether there was room for it. Never waits."""
        records = self.kind.count(batch)
        data = self.kind.request(batch=batch).SerializeToString()
        with self._guard:
            if self._memory_bytes + len(data) > self._options.memory_bytes:
                self.stats.dropped += records
                return False
            self._seq += 1
            self._memory.append((self._seq, data, records))
            self._memory_bytes += len(data)
            high = self._memory_bytes > self._options.memory_bytes // 2
        with contextlib.suppress(RuntimeError):  # the loop has ended: `__aexit__` was before
            self._loop.call_soon_threadsafe(self._wake, high)
        return True

    def _wake(self, high: bool) -> None:  # noqa: FBT001 - call_soon knows no keywords
        self._came.set()
        if high:
            self._high.set()

    async def _send(self) -> None:
        if self._root is not None:
            await self._send_left_behind(self._root)
        pusher = Pusher(self._sinks, self._producer, self.kind)
        durable: int | None = None
        try:
            while True:
                async with self._moving:
                    found = await self._oldest()
                if found is None:
                    self._came.clear()
                    if not self.waiting:
                        await self._came.wait()
                    continue
                seq, data, records = found
                try:
                    if durable is None:
                        durable = await pusher.resume()
                    if seq > durable:
                        head = self.kind.request(seq=seq, after=durable).SerializeToString()
                        reply = await pusher.push(head + data)  # protobuf joins messages by joining their bytes
                        if reply.rejected:
                            self.stats.rejected += records
                        else:
                            self.stats.shipped += records
                            durable = reply.durable_seq
                    else:  # it was stored, and the word of it was lost
                        self.stats.shipped += records
                except PushError as error:
                    durable = None
                    await pusher.pause(error)
                    continue
                async with self._moving:
                    await asyncio.to_thread(self._forget, seq)
                self._sent.set()
        finally:
            await pusher.close()

    async def _oldest(self) -> tuple[int, bytes, int] | None:
        while self._spool:
            seq = self._spool.first
            data = await asyncio.to_thread(self._spool.read)
            if data is not None:
                return seq, data, self._records(data)
            self._spool.drop()  # it is damaged, and what was in it cannot be known
        return self._memory[0] if self._memory else None

    def _forget(self, seq: int) -> None:
        with self._threads:
            if self._spool and self._spool.first == seq:
                self._spool.drop()
                return
            with self._guard:
                if self._memory and self._memory[0][0] == seq:
                    self._memory_bytes -= len(self._memory.popleft()[1])

    async def _spill_when_high(self) -> None:
        while True:
            await self._high.wait()
            self._high.clear()
            async with self._moving:
                await asyncio.to_thread(self._spill)

    def _spill(self) -> None:
        """Move batches from memory to the disk, as long as there is room."""
        with self._threads:
            if self._spool is not None:
                self._spill_to(self._spool)

    def _spill_to(self, spool: Spool) -> None:
        while self._memory:
            seq, data, _ = self._memory[0]
            if spool.size + len(data) > self._options.spool_bytes:
                return
            try:
                spool.put(seq, data)
            except OSError:  # a full disk: then memory is what there is
                return
            with self._guard:
                self._memory.popleft()
                self._memory_bytes -= len(data)

    async def _send_left_behind(self, root: Path) -> None:
        """Send what processes before this one could not."""
        for spool in await asyncio.to_thread(lambda: list(left_behind(root))):
            pusher = Pusher(self._sinks, spool.folder.name, self.kind)
            durable: int | None = None
            try:
                while spool:
                    data = await asyncio.to_thread(spool.read)
                    try:
                        if durable is None:
                            durable = await pusher.resume()
                        if data is not None and spool.first > durable:
                            head = self.kind.request(seq=spool.first, after=durable).SerializeToString()
                            reply = await pusher.push(head + data)
                            durable = max(durable, reply.durable_seq)
                            self.stats.shipped += 0 if reply.rejected else self._records(data)
                    except PushError as error:
                        durable = None
                        await pusher.pause(error)
                        continue
                    await asyncio.to_thread(spool.drop)
            finally:
                spool.close()
                await pusher.close()

    def _records(self, data: bytes) -> int:
        return self.kind.count(self.kind.request.FromString(data).batch)
