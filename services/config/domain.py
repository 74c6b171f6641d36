"""The configuration service: its parts on one store, started and stopped together."""

from __future__ import annotations

import contextlib

from mesh.clock import Clock, SystemClock
from services.config.applied import Reports
from services.config.editing import Editor
from services.config.effective import Resolver
from services.config.fleet import Fleet
from services.config.keys import KeyRing
from services.config.reading import Reader
from services.config.releasing import Releaser
from services.config.repository import Repository
from services.config.view import View
from services.config.watching import PROGRESS_INTERVAL, Watches
from services.storage.kv.base import Store


class Config:
    """Use as `async with Config(store, fleet) as config`."""

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        keys: KeyRing | None = None,
        *,
        clock: Clock | None = None,
        progress_interval: float = PROGRESS_INTERVAL,
    ) -> None:
        """Ask `fleet` who lives, and encrypt secrets with `keys`; without any, secrets are refused."""
        keys = keys or KeyRing()
        self.store = store
        self.fleet = fleet
        self.repository = Repository(store, clock or SystemClock())
        self.editor = Editor(self.repository, keys)
        self.releaser = Releaser(self.repository)
        self.reader = Reader(self.repository, self.releaser)
        self.resolver = Resolver(self.repository, keys)
        self._view = View(store)
        self.watches = Watches(self._view, self.resolver, fleet, progress_interval=progress_interval)
        self.reports = Reports(self.repository, fleet, self.watches)
        self._running = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Config:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._view)
            await stack.enter_async_context(self.reports)
            self._running = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()
