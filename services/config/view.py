"""The applications as the watches of this process see them: a copy that follows the store."""

from __future__ import annotations

import asyncio
import contextlib

from services.config import records
from services.config.records import App
from services.config.repository import Known
from services.storage.kv.base import Batch, KeyValue, Store
from services.storage.kv.following import follow


class View:
    """Use as `async with View(store) as view`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.apps: dict[str, Known[App]] = {}
        self.revision = 0
        # By application, replaced whenever it has changed, so that everyone who waits for it wakes once.
        self._moved: dict[str, asyncio.Event] = {}
        # The same for any revision.
        self._advanced = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> View:
        await self._load()
        self._task = asyncio.create_task(
            follow(self._store, records.APPS, lambda: self.revision, self._apply, self._load)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def moved(self, name: str) -> asyncio.Event:
        """Return an event that is set by the next change of the application."""
        return self._moved.setdefault(name, asyncio.Event())

    async def reached(self, revision: int) -> None:
        """Wait until the view is at `revision`."""
        while self.revision < revision:
            await self._advanced.wait()

    async def _load(self) -> None:
        reply = await self._store.range(records.APPS, prefix=True)
        self.apps = {}
        for kv in reply.kvs:
            self._put(kv)
        self.revision = reply.header.revision
        self._wake(set(self._moved))

    def _apply(self, batch: Batch) -> None:
        for event in batch.events:
            if event.kv is not None:
                self._put(event.kv)
            else:
                self.apps.pop(event.key.removeprefix(records.APPS), None)
        self.revision = batch.revision
        self._wake({event.key.removeprefix(records.APPS) for event in batch.events})

    def _put(self, kv: KeyValue) -> None:
        name = kv.key.removeprefix(records.APPS)
        self.apps[name] = Known(records.decode_app(name, kv.value), kv.mod_revision)

    def _wake(self, names: set[str]) -> None:
        for name in names:
            if (event := self._moved.pop(name, None)) is not None:
                event.set()
        self._advanced.set()
        self._advanced = asyncio.Event()
