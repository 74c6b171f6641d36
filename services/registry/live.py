"""A view that follows the store, and sees to it that services are remembered as what lives declares them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from mesh.api.registry.v1 import Instance
from services.registry import records
from services.registry.view import View
from services.storage.kv.base import CompactedError, Put, StorageError, Store, unchanged

RETRY_DELAY = 1.0


class Live:
    """Use as `async with Live(store, keep) as live`: `live.view` is then never far behind the store."""

    def __init__(self, store: Store, keep_changes: int) -> None:
        self._store = store
        self._keep_changes = keep_changes
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
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._fit())]
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
        view = View(reply.kvs, reply.header.revision, keep=self._keep_changes)
        floor = 0
        batches = []
        while floor < view.revision:
            try:
                async with contextlib.aclosing(self._store.watch(records.PREFIX, floor + 1)) as changes:
                    async for batch in changes:
                        batches.append(batch)
                        if batch.revision >= view.revision:
                            break
                break
            except CompactedError as error:
                floor, batches = error.compact_revision, []
        view.backfill((batch for batch in batches if batch.revision <= view.revision), min(floor, view.revision))
        self.view = view
        self._move()
        self._check(set(view.services))

    async def _follow(self) -> None:
        """Keep the view up with the store, for as long as that is open."""
        while True:
            try:
                async with contextlib.aclosing(self._store.watch(records.PREFIX, self.view.revision + 1)) as changes:
                    async for batch in changes:
                        self._check(self.view.apply(batch))
                        self._move()
            except CompactedError:
                await self._load()
            except StorageError:
                await asyncio.sleep(RETRY_DELAY)  # it stays as it is meanwhile, and goes on from there

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

    def _move(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()
