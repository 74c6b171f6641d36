"""Bringing watchers up to revisions that were made outside of our namespace.

A reply may carry such a revision, and whoever got it may wait for a watch to come to it, in vain. etcd can be asked how
far a watch is, but before 3.5.8 its answer may overtake events. So a key of our own is written, behind which no event
of the past can come. Where etcd is ours alone this does not happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.storage.kv.base import StorageError
from services.storage.kv.etcd.assemble import Assembler

# Seconds that an event has to come by itself.
PATIENCE = 0.2


class Beat:
    """Knows what callers have been told, and who lags behind that."""

    def __init__(self, write: Callable[[], Awaitable[int]]) -> None:
        """`write` changes a key in the namespace and returns the revision."""
        self._write = write
        self._told = 0
        self._beaten = 0
        self._wanted = asyncio.Event()
        self.followers: set[Assembler] = set()

    def told(self, revision: int) -> None:
        """Note that somebody knows of `revision`."""
        if revision > self._told:
            self._told = revision
            self._wanted.set()

    async def run(self) -> None:
        """Write where that is needed, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            told = self._told
            await asyncio.sleep(PATIENCE)
            if told > self._beaten and any(follower.position < told for follower in self.followers):
                try:
                    self._beaten = await self._write()
                except StorageError:
                    self._wanted.set()  # etcd is away: that comes first
