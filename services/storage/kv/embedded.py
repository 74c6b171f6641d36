"""The store for one machine: state in memory, a log on disk, group commit between them.

Requests that arrive while a commit is under way share the next one. Only when that is on disk does the state change,
do the requesters get their answers, and do watchers hear of it. A watcher is a place in the history, not a buffer: a
slow one costs no memory, and when it falls out of the history it is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, Self

from mesh.clock import Clock, SystemClock
from services.storage.kv.base import (
    Batch,
    Compare,
    Grant,
    Header,
    KeyValue,
    LeaseNotFoundError,
    LeaseReply,
    Operation,
    RangeReply,
    StorageError,
    Store,
    TxnReply,
)
from services.storage.kv.leases import Countdown
from services.storage.kv.record import record
from services.storage.kv.requests import Compact, Outcome, Request, Revoke, Txn
from services.storage.kv.sqlite import Loaded, SqliteLog
from services.storage.kv.state import Prepared, State

KEEP_REVISIONS = 10_000
# Bounds what one commit takes, and with it how long the loop is kept from other work.
MAX_GROUP = 1024
# How often leases are looked at; and a sleep that is longer by so much is one of the whole process.
TICK = 0.25
OVERSLEPT = 1.0


class Log(Protocol):
    """What the store needs of its file. `write` and `close` are called in a thread, one call at a time."""

    def load(self) -> Loaded: ...
    def write(self, prepared: Prepared, leases: Mapping[int, tuple[float, int]]) -> None: ...
    def close(self) -> None: ...


@record
class _Pending:
    request: Request
    answer: asyncio.Future[Outcome]


class EmbeddedStore(Store):
    """Use as `async with EmbeddedStore.open(path) as store`."""

    def __init__(self, log: Log, *, clock: Clock | None = None, keep: int = KEEP_REVISIONS) -> None:
        self._log = log
        self._clock = clock or SystemClock()
        loaded = log.load()
        self._cluster_id = loaded.cluster_id
        self._state = State(
            keep=keep,
            revision=loaded.revision,
            compact_revision=loaded.compact_revision,
            kvs=loaded.kvs,
            leases={lease.lease_id: lease.ttl for lease in loaded.leases},
            history=loaded.history,
        )
        self._countdown = Countdown()
        # Each has its ttl anew, as on etcd after an election: while we were away nobody could renew, and those who
        # are back at once must not be told from those who need a moment. So renewals are not written down at all.
        for lease in loaded.leases:
            self._countdown.start(lease.lease_id, lease.ttl, self._clock.now())
        self._queue: list[_Pending] = []
        self._work = asyncio.Event()
        # Replaced whenever the state has changed, so that every watcher wakes once.
        self._changed = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, "kv")
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def open(cls, path: Path, *, clock: Clock | None = None, keep: int = KEEP_REVISIONS) -> EmbeddedStore:
        """Open the SQLite file at `path`; `StartError` when it cannot be used."""
        log = SqliteLog(path)
        try:
            return cls(log, clock=clock, keep=keep)
        except BaseException:
            log.close()
            raise

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._commits()), asyncio.create_task(self._ticks())]
        return self

    @property
    def header(self) -> Header:
        return Header(self._cluster_id, self._state.revision)

    async def range(self, key: str, *, prefix: bool = False) -> RangeReply:
        found: tuple[KeyValue, ...]
        if prefix:
            found = tuple(self._state.scan(key))
        else:
            kv = self._state.get(key)
            found = () if kv is None else (kv,)
        return RangeReply(self.header, found)

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Operation],
        orelse: Sequence[Operation] = (),
        *,
        grant: Grant | None = None,
    ) -> TxnReply:
        txn = Txn(tuple(compares), tuple(then), tuple(orelse), grant)
        outcome = await self._submit(txn)
        return TxnReply(self._header_at(outcome), outcome.succeeded, outcome.results)

    async def grant(self, grant: Grant) -> LeaseReply:
        await self.txn((), (), grant=grant)
        return LeaseReply(self.header, grant.lease_id, grant.ttl, grant.ttl)

    async def keepalive(self, lease_id: int) -> LeaseReply:
        ttl = self._countdown.renew(lease_id, self._clock.now())
        if ttl is None:
            raise LeaseNotFoundError(lease_id)
        return LeaseReply(self.header, lease_id, ttl, ttl)

    async def time_to_live(self, lease_id: int) -> LeaseReply:
        ttl = self._state.lease_ttl(lease_id)
        remaining = self._countdown.remaining(lease_id, self._clock.now())
        if ttl is None or remaining is None:
            raise LeaseNotFoundError(lease_id)
        return LeaseReply(self.header, lease_id, ttl, remaining)

    async def revoke(self, lease_id: int) -> Header:
        return self._header_at(await self._submit(Revoke(lease_id)))

    async def compact(self, revision: int) -> Header:
        return self._header_at(await self._submit(Compact(revision)))

    async def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[Batch, None]:
        cursor = start_revision
        while not self._closing:
            changed = self._changed
            for batch in self._state.since(cursor) if cursor <= self._state.revision else ():
                cursor = batch.revision + 1
                events = tuple(event for event in batch.events if event.key.startswith(prefix))
                if events or batch.revision == self._state.revision:
                    yield Batch(batch.revision, events)
            if cursor > self._state.revision:
                await changed.wait()
        raise StorageError("the store has been closed")

    async def expire(self) -> None:
        """End the leases that have run out by now. Called by the store's own task; public for tests."""
        now = self._clock.now()
        due = self._countdown.due(now)
        ended = await asyncio.gather(*(self._submit(Revoke(id_, expired=True)) for id_ in due), return_exceptions=True)
        # One that could not be ended, for want of disk say, is tried again; one that is gone is forgotten.
        self._countdown.retry((id_ for id_, end in zip(due, ended, strict=True) if isinstance(end, StorageError)), now)

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._work.set()
        if self._tasks:
            commits, ticks = self._tasks
            ticks.cancel()
            await commits  # which writes what was accepted
            with contextlib.suppress(asyncio.CancelledError):
                await ticks
        self._notify()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._log.close)
        self._thread.shutdown()

    def _header_at(self, outcome: Outcome) -> Header:
        return Header(self._cluster_id, outcome.revision)

    def _submit(self, request: Request) -> Awaitable[Outcome]:
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if self._closing:
            answer.set_exception(StorageError("the store is closing"))
        else:
            self._queue.append(_Pending(request, answer))
            self._work.set()
        return answer

    async def _commits(self) -> None:
        while not self._closing or self._queue:
            await self._work.wait()
            self._work.clear()
            while self._queue:
                group, self._queue = self._queue[:MAX_GROUP], self._queue[MAX_GROUP:]
                await self._commit([pending for pending in group if not pending.answer.cancelled()])

    async def _commit(self, group: list[_Pending]) -> None:
        prepared = self._state.prepare(pending.request for pending in group)
        changes = prepared.batches or prepared.leases or prepared.compact_revision != self._state.compact_revision
        if changes and (failure := await self._write(prepared)) is not None:
            for pending in group:
                _settle(pending.answer, StorageError(f"the change could not be written to disk ({failure})"))
            return
        self._state.commit(prepared)
        now = self._clock.now()
        for lease_id, ttl in prepared.leases.items():
            if ttl is None:
                self._countdown.end(lease_id)
            else:
                self._countdown.start(lease_id, ttl, now)
        for pending, outcome in zip(group, prepared.outcomes, strict=True):
            _settle(pending.answer, outcome)
        if prepared.batches:
            self._notify()

    async def _write(self, prepared: Prepared) -> Exception | None:
        """Write to the log, and return what went wrong."""
        wall_ns = self._clock.wall_ns()
        granted = ((lease_id, ttl) for lease_id, ttl in prepared.leases.items() if ttl is not None)
        leases = {lease_id: (ttl, wall_ns + round(ttl * 1e9)) for lease_id, ttl in granted}
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._log.write, prepared, leases)
        except Exception as error:  # noqa: BLE001 - whatever it is, the requesters are told and the store goes on
            return error
        return None

    async def _ticks(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            slept_at = loop.time()
            await asyncio.sleep(TICK)
            # While this process did not run (stopped, starved) nobody could renew: that time does not count.
            if (overslept := loop.time() - slept_at - TICK) > OVERSLEPT:
                self._countdown.put_off(overslept)
            await self.expire()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _settle(answer: asyncio.Future[Outcome], outcome: Outcome | Exception) -> None:
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
