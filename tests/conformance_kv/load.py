"""Writers that never stop, and the proof that nothing was lost, missed or repeated."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator

from services.storage.kv.base import EventKind, OutcomeUnknownError, Put, StorageError, absent
from tests.conformance_kv.bench import Bench, Watcher


class Load:
    """Half of the writers create keys if they are absent, which can be repeated; half put them, which cannot."""

    def __init__(self, bench: Bench, writers: int = 6) -> None:
        self._bench = bench
        self._writers = writers
        # The revision of each key whose write was acknowledged, and keys that may or may not have been written.
        self.acknowledged: dict[str, int] = {}
        self.unknown: set[str] = set()
        self.refused: set[str] = set()
        self._progress = asyncio.Event()

    async def progress(self, count: int) -> None:
        """Wait for `count` more acknowledgements."""
        wanted = len(self.acknowledged) + count
        while len(self.acknowledged) < wanted:
            self._progress.clear()
            await self._progress.wait()

    async def write(self, writer: int) -> None:
        for number in itertools.count():
            key = f"{writer}/{number}"
            compares = (absent(key),) if writer % 2 else ()
            try:
                reply = await self._bench.store.txn(compares, (Put(key, b"value"),))
            except OutcomeUnknownError:
                self.unknown.add(key)
            except StorageError:
                self.refused.add(key)
                await asyncio.sleep(0.01)
            else:
                assert reply.succeeded
                assert reply.results == ((),)
                self.acknowledged[key] = reply.header.revision
                self._progress.set()

    async def check(self, watchers: list[Watcher]) -> None:
        """Compare what was acknowledged, what watchers heard and what is there."""
        end = await self._bench.store.put("end", b"")
        for watcher in watchers:
            await watcher.reach(end.header.revision)
            assert watcher.compacted is None
        first, *others = watchers
        for other in others:
            assert other.batches == first.batches
        heard = {
            event.key: batch.revision
            for batch in first.batches
            for event in batch.events
            if event.kind is EventKind.PUT
        }
        times = Counter(event.key for batch in first.batches for event in batch.events)
        assert set(times.values()) == {1}, "written or told twice"
        assert self.acknowledged.items() <= heard.items()
        assert not self.refused & heard.keys(), "said not to be done, and done"
        assert heard.keys() - self.acknowledged.keys() - {"end"} <= self.unknown
        there = {kv.key: kv.mod_revision for kv in (await self._bench.store.range("", prefix=True)).kvs}
        assert {key: revision for key, revision in there.items() if "/" in key or key == "end"} == heard


@contextlib.asynccontextmanager
async def loaded(bench: Bench, watchers: int = 3) -> AsyncIterator[Load]:
    """Keep writing and watching while the block runs, then check all of it."""
    load = Load(bench)
    start = bench.store.header.revision + 1
    watching = [Watcher(bench, "", start) for _ in range(watchers)]
    tasks = [asyncio.create_task(load.write(writer)) for writer in range(6)]
    try:
        yield load
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        # What was cancelled on its way may have been carried out.
        load.unknown |= {f"{writer}/{number}" for writer in range(6) for number in [_next(load, writer)]}
        await load.check(watching)
    finally:
        for task in tasks:
            task.cancel()
        for watcher in watching:
            await watcher.stop()


def _next(load: Load, writer: int) -> int:
    """Return the number that `writer` was at."""
    return sum(key.startswith(f"{writer}/") for key in (*load.acknowledged, *load.unknown, *load.refused))
