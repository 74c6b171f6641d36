from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from services.storage.kv import following
from services.storage.kv.base import Batch, StorageError
from services.storage.kv.embedded import EmbeddedStore


class Copy:
    """What is under "a/", kept up with a store."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._store = store
        self.revision = self.loads = 0
        self.values: dict[str, bytes] = {}
        self.moved = asyncio.Event()

    async def load(self) -> None:
        reply = await self._store.range("a/", prefix=True)
        self.values = {kv.key: kv.value for kv in reply.kvs}
        self.revision = reply.header.revision
        self.loads += 1
        self.moved.set()

    def apply(self, batch: Batch) -> None:
        assert batch.revision > self.revision
        for event in batch.events:
            self.values[event.key] = event.kv.value if event.kv is not None else b""
        self.revision = batch.revision
        self.moved.set()

    async def reached(self, revision: int) -> None:
        async with asyncio.timeout(30):
            while self.revision < revision:
                self.moved.clear()
                await self.moved.wait()


async def test_a_copy_is_kept_up_over_failures_and_compaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)
    async with EmbeddedStore.open(tmp_path / "kv.db") as store:
        copy, real, fails = Copy(store), store.watch, 2

        async def watch(prefix: str, start: int) -> AsyncGenerator[Batch, None]:
            nonlocal fails
            async for batch in real(prefix, start):
                yield batch
                if fails:
                    fails -= 1
                    raise StorageError("gone for a while")

        monkeypatch.setattr(store, "watch", watch)
        await store.put("b/other", b"")
        for number in range(5):
            last = await store.put("a/x", b"%d" % number)
        await store.compact(last.header.revision - 1)
        task = asyncio.create_task(following.follow(store, "a/", lambda: copy.revision, copy.apply, copy.load))
        await copy.reached(last.header.revision)
        assert (copy.values, copy.loads) == ({"a/x": b"4"}, 1)
        for number in range(5, 9):
            last = await store.put("a/x", b"%d" % number)
            await copy.reached(last.header.revision)
            assert copy.values == {"a/x": b"%d" % number}
        assert (fails, copy.loads) == (0, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
