"""A view that follows the store, and sees to it that services are remembered as what lives declares them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence

from mesh.api.registry.v1 import Instance
from services.registry import records
from services.registry.keeping import Keeping
from services.registry.view import Move, View
from services.storage.kv.base import Batch, CompactedError, Put, StorageError, Store, unchanged

RETRY_DELAY = 1.0


class Live:
    """Use as `async with Live(store, keep) as live`: `live.view` is then never far behind the store."""

    def __init__(self, store: Store, keep_changes: int, keeping: Keeping) -> None:
        self._store = store
        self._keep_changes = keep_changes
        self._keeping = keeping
        # Told of all that happens to instances; of None when the view is another one.
        self.observers: list[Callable[[Sequence[Move] | None], None]] = []
        # Read from the store and not taken over yet; where the reader is; how often it began anew.
        self._incoming: list[Batch] = []
        self._came = asyncio.Event()
        self._read = 0
        self._loads = 0
        # Replaced when the store has lost the thread: do not hold on to it.
        self.view = View()
        # Replaced whenever the view has moved on, so that everyone who waits wakes once.
        self.moved = asyncio.Event()
        # Services whose record no longer fits what lives.
        self._unfit: set[str] = set()
        self._unfit_found = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Live:
        await self._load()
        self._tasks = [asyncio.create_task(work()) for work in (self._follow, self._take_over, self._fit)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError, StorageError):
                await task

    def fitting(self, name: str, coming: Instance | None = None) -> Iterator[Put]:
        """Yield the write, if one is needed, that makes the record of `name` fit what lives, and `coming`."""
        wanted = self.view.declared(name, coming)
        known = self.view.services.get(name)
        if wanted is None:
            return  # nothing lives: what was known last is remembered
        if known is None or (known.grpc_services, known.exposure) != (wanted.grpc_services, wanted.exposure):
            yield Put(records.service_key(name), records.encode(wanted))

    async def catch_up(self) -> None:
        """Wait until the view is where the store is now, whoever brought it there."""
        await self.caught_up((await self._store.range(records.PREFIX)).header.revision)

    async def caught_up(self, revision: int) -> None:
        """Wait until the view has come to `revision`."""
        while self.view.revision < revision:
            await self.moved.wait()

    async def _load(self) -> None:
        """Read the present state, and the changes that the store still keeps, so that watchers can resume."""
        reply = await self._store.range(records.PREFIX, prefix=True)
        revision, floor = reply.header.revision, 0
        batches: list[Batch] = []
        while floor < revision:
            try:
                async with contextlib.aclosing(self._store.watch(records.PREFIX, floor + 1)) as changes:
                    async for batch in changes:
                        batches.append(batch)
                        if batch.revision >= revision:
                            break
                break
            except CompactedError as error:
                floor, batches = error.compact_revision, []
        known = [batch for batch in batches if batch.revision <= revision]
        self.view = View.load(reply.kvs, revision, known, min(floor, revision), keep=self._keep_changes)
        self._read = revision
        self._incoming.clear()
        self._loads += 1
        self._keeping.moved()
        self._move(None)
        self._check(set(self.view.services))

    async def _follow(self) -> None:
        """Read what the store tells, for as long as that is open."""
        while True:
            try:
                async with contextlib.aclosing(self._store.watch(records.PREFIX, self._read + 1)) as changes:
                    async for batch in changes:
                        self._incoming.append(batch)
                        self._read = batch.revision
                        self._came.set()
            except CompactedError:
                await self._load()
            except StorageError:
                await asyncio.sleep(RETRY_DELAY)  # it stays as it is meanwhile, and goes on from there

    async def _take_over(self) -> None:
        """Keep the view up with what is read. Expiries against which something is kept wait until that is read too."""
        while True:
            await self._came.wait()
            loads, pending, until = self._loads, list[Batch](), 0
            while loads == self._loads and (self._incoming or until > self._read):
                if not self._incoming:
                    self._came.clear()
                    await self._came.wait()
                batches, self._incoming = self._incoming, []
                pending += batches
                until = max(until, await self._keeping.keep(self.view, batches))
            self._came.clear()
            if loads != self._loads:
                self._came.set()  # another view, which has all that is pending
                continue
            together = [batch for batch in pending if batch.revision <= until]
            if together:
                events = tuple(event for batch in together for event in batch.events)
                self._apply(Batch(together[-1].revision, events))
            for batch in pending[len(together) :]:
                self._apply(batch)
            self._keeping.moved()

    def _apply(self, batch: Batch) -> None:
        moves = self.view.apply(batch)
        self._move(moves)
        self._check({move.key[0] for move in moves})

    async def _fit(self) -> None:
        """Shrink the records of services after instances have left: nobody's request does that."""
        while True:
            await self._unfit_found.wait()
            self._unfit_found.clear()
            names, self._unfit = self._unfit, set()
            for name in names:
                service = self.view.services.get(name)
                compare = unchanged(records.service_key(name), service.mod_revision if service else 0)
                writes = list(self.fitting(name))
                try:
                    if writes:
                        await self._store.txn((compare,), writes)  # if it came too late, the view will show it
                except StorageError:
                    await asyncio.sleep(RETRY_DELAY)
                    self._check({name})

    def _check(self, names: set[str]) -> None:
        unfit = {name for name in names if any(self.fitting(name))}
        if unfit:
            self._unfit |= unfit
            self._unfit_found.set()

    def _move(self, moves: Sequence[Move] | None) -> None:
        for observer in self.observers:
            observer(moves)
        self.moved.set()
        self.moved = asyncio.Event()
