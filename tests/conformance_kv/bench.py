"""What the suite needs of a driver beyond the store itself: to crash it, and to let a lease run out."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import itertools
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from mesh.testing.clock import ManualClock
from services.storage.kv.base import Batch, CompactedError, LeaseNotFoundError, StorageError, Store
from services.storage.kv.embedded import EmbeddedStore
from services.storage.kv.etcd.options import parse_url
from services.storage.kv.etcd.store import EtcdStore
from tests.conformance_kv.etcd_server import EtcdMember, url_of

# Seconds of a lease that is to run out. etcd counts in whole ones.
SHORT = 1.0
LONG = 3000.0

# All namespaces of an etcd share its leases, so no test uses the id of another one.
_lease_ids = itertools.count(1000)


def new_lease() -> int:
    """Return a lease id that no other test has."""
    return next(_lease_ids)


class Bench(abc.ABC):
    """An open store whose backend can be harmed."""

    # Whether each change adds exactly one to the revision.
    exact = True
    store: Store

    @abc.abstractmethod
    async def open(self) -> None:
        """Open the store on empty data."""

    @abc.abstractmethod
    async def crash(self) -> None:
        """End the backend as kill -9 does, and start it again."""

    @abc.abstractmethod
    async def run_out(self, lease_id: int) -> None:
        """Wait until the lease, of a ttl of `SHORT`, is over. Others must have longer ones."""

    async def close(self) -> None:
        await self.store.close()


class SqliteBench(Bench):
    """Time stands still until a lease is to run out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clock = ManualClock()
        self._generation = 0

    async def open(self) -> None:
        self.store = await self._opened().__aenter__()

    async def crash(self) -> None:
        assert isinstance(self.store, EmbeddedStore)
        log = self.store._log

        def cut() -> None:
            old = self._path().parent
            self._generation += 1
            self._path().parent.mkdir(parents=True)
            for path in old.glob("kv.db*"):
                shutil.copy(path, self._path().parent / path.name)

        def fail(*_: object) -> None:
            raise OSError("crashed")

        # From now on no commit succeeds, nor has a close last words; what is in the files after the last one is kept.
        log.write = fail  # type: ignore[method-assign, assignment]
        await asyncio.get_running_loop().run_in_executor(self.store._thread, cut)
        await self.store.close()
        await self.open()

    async def run_out(self, lease_id: int) -> None:
        assert isinstance(self.store, EmbeddedStore)
        self._clock.advance(SHORT)
        await self.store.expire()

    def _path(self) -> Path:
        return self._folder / str(self._generation) / "kv.db"

    def _opened(self) -> EmbeddedStore:
        return EmbeddedStore.open(self._path(), clock=self._clock)


class EtcdBench(Bench):
    """A namespace of its own on a server that many tests share."""

    exact = False

    def __init__(self, member: EtcdMember) -> None:
        self._member = member

    async def open(self) -> None:
        self.store = await EtcdStore(parse_url(url_of([self._member], uuid.uuid4().hex))).__aenter__()

    async def crash(self) -> None:
        await asyncio.to_thread(self._member.restart)

    async def run_out(self, lease_id: int) -> None:
        with contextlib.suppress(LeaseNotFoundError):
            while True:
                await self.store.time_to_live(lease_id)
                await asyncio.sleep(0.05)  # real time has to pass: etcd knows no other


class Watcher:
    """A reader that goes on after every failure of the store where it was, and remembers all it got."""

    def __init__(self, bench: Bench, prefix: str, start: int) -> None:
        self._bench = bench
        self._prefix = prefix
        self.batches: list[Batch] = []
        self.position = start - 1
        self.compacted: int | None = None
        self._moved = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def reach(self, revision: int) -> None:
        """Wait until the watch is at `revision`, or has been told that it is too late."""
        while self.position < revision and not self._task.done():
            self._moved.clear()
            moved = asyncio.create_task(self._moved.wait())
            await asyncio.wait((moved, self._task), return_when=asyncio.FIRST_COMPLETED)
            moved.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._bench.store.watch(self._prefix, self.position + 1)) as batches:
                    async for batch in batches:
                        assert batch.revision > self.position, "repeated or out of order"
                        self.position = batch.revision
                        if batch.events:
                            self.batches.append(batch)
                        self._moved.set()
            except CompactedError as error:
                self.compacted = error.compact_revision
                return
            except StorageError:
                await asyncio.sleep(0.001)  # closed, and about to be opened again


@contextlib.asynccontextmanager
async def watching(bench: Bench, prefix: str = "", start: int = 0) -> AsyncIterator[Watcher]:
    """Give a watcher, from the next revision on or from `start`."""
    watcher = Watcher(bench, prefix, start or bench.store.header.revision + 1)
    try:
        yield watcher
    finally:
        await watcher.stop()
