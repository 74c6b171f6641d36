from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from mesh.testing.clock import ManualClock
from services.storage.kv.base import (
    Batch,
    CompactedError,
    EventKind,
    Grant,
    LeaseNotFoundError,
    Put,
    RequestError,
    StorageError,
    absent,
)
from services.storage.kv.embedded import EmbeddedStore
from services.storage.kv.sqlite import Loaded
from services.storage.kv.state import Prepared


class GatedLog:
    """A log in memory whose commits wait for a gate, and fail on demand."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.writing = threading.Event()
        self.fails = False
        self.groups: list[int] = []

    def load(self) -> Loaded:
        return Loaded("cluster", 0, 0, [], [], [])

    def write(self, prepared: Prepared, leases: Mapping[int, tuple[float, int]]) -> None:
        self.writing.set()
        assert self.gate.wait(30)
        if self.fails:
            raise OSError("no space left on device")
        self.groups.append(len(prepared.outcomes))

    def close(self) -> None:
        pass


@pytest.fixture
async def log() -> GatedLog:
    return GatedLog()


@pytest.fixture
async def store(log: GatedLog) -> AsyncIterator[EmbeddedStore]:
    async with EmbeddedStore(log, clock=ManualClock()) as opened:
        yield opened
        log.gate.set()


async def take(store: EmbeddedStore, start: int, *, count: int, prefix: str = "") -> list[Batch]:
    batches = []
    async with contextlib.aclosing(store.watch(prefix, start)) as watch:
        async for batch in watch:
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


async def test_what_queues_up_during_a_commit_shares_the_next_one(store: EmbeddedStore, log: GatedLog) -> None:
    log.gate.clear()
    first = asyncio.create_task(store.put("first", b""))
    await asyncio.to_thread(log.writing.wait)
    rest = [asyncio.create_task(store.put(f"rest{number}", b"")) for number in range(50)]
    await asyncio.sleep(0)
    assert not first.done()
    assert await store.get("first") is None  # not before it is durable
    log.gate.set()
    replies = await asyncio.gather(first, *rest)
    assert log.groups == [1, 50]
    assert [reply.header.revision for reply in replies] == list(range(1, 52))  # each its own revision, in order


async def test_a_watcher_hears_nothing_that_is_not_durable(store: EmbeddedStore, log: GatedLog) -> None:
    watching = asyncio.create_task(take(store, 1, count=1))
    log.gate.clear()
    writing = asyncio.create_task(store.put("key", b"value"))
    await asyncio.to_thread(log.writing.wait)
    assert not watching.done()
    log.gate.set()
    await writing
    (batch,) = await watching
    assert [(event.key, event.kind) for event in batch.events] == [("key", EventKind.PUT)]


async def test_a_failed_commit_fails_its_requests_and_nothing_else(store: EmbeddedStore, log: GatedLog) -> None:
    await store.put("key", b"old")
    log.fails = True
    for request in (store.put("key", b"new"), store.delete("key"), store.grant(Grant(1, 10))):
        with pytest.raises(StorageError, match=r"could not be written to disk \(no space left"):
            await request
    log.fails = False
    kv = await store.get("key")
    assert kv is not None
    assert (kv.value, store.header.revision) == (b"old", 1)
    assert (await store.put("key", b"new")).header.revision == 2
    with pytest.raises(LeaseNotFoundError):
        await store.time_to_live(1)


async def test_a_request_whose_caller_left_in_the_queue_is_dropped(store: EmbeddedStore, log: GatedLog) -> None:
    log.gate.clear()
    first = asyncio.create_task(store.put("first", b""))
    await asyncio.to_thread(log.writing.wait)
    second = asyncio.create_task(store.put("second", b""))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    log.gate.set()
    await first
    await store.put("third", b"")
    assert await store.get("second") is None


async def test_a_refused_request_does_not_harm_its_group(store: EmbeddedStore) -> None:
    good, bad, late = await asyncio.gather(
        store.put("good", b""),
        store.put("bad", b"", lease=77),
        store.txn((absent("good"),), (Put("late", b""),)),
        return_exceptions=True,
    )
    assert isinstance(bad, LeaseNotFoundError)
    assert not isinstance(good, BaseException)
    assert not isinstance(late, BaseException)
    assert not late.succeeded  # it was decided after `good`
    assert store.header.revision == 1


async def test_closing_finishes_what_was_accepted(log: GatedLog) -> None:
    async with EmbeddedStore(log) as store:
        log.gate.clear()
        writes = [asyncio.create_task(store.put(f"key{number}", b"")) for number in range(5)]
        watching = asyncio.create_task(take(store, 100, count=1))
        await asyncio.to_thread(log.writing.wait)
        log.gate.set()
    assert [reply.header.revision for reply in await asyncio.gather(*writes)] == [1, 2, 3, 4, 5]
    with pytest.raises(StorageError):
        await watching
    with pytest.raises(StorageError, match="closing"):
        await store.put("late", b"")


async def test_an_expired_lease_takes_its_keys_at_one_revision(store: EmbeddedStore) -> None:
    clock = store._clock
    assert isinstance(clock, ManualClock)
    await store.txn((), (Put("a", b"1", 5), Put("b", b"2", 5), Put("c", b"3")), grant=Grant(5, 10))
    clock.advance(9)
    await store.expire()
    assert (await store.keepalive(5)).remaining == 10
    clock.advance(9)
    await store.expire()
    assert (await store.time_to_live(5)).remaining == pytest.approx(1)
    clock.advance(1)
    await store.expire()
    (batch,) = await take(store, 2, count=1)
    assert [(event.kind, event.key) for event in batch.events] == [(EventKind.EXPIRE, "a"), (EventKind.EXPIRE, "b")]
    assert [event.prev.value for event in batch.events if event.prev] == [b"1", b"2"]
    assert [kv.key for kv in (await store.range("", prefix=True)).kvs] == ["c"]
    for call in (store.keepalive(5), store.time_to_live(5), store.revoke(5)):
        with pytest.raises(LeaseNotFoundError):
            await call


async def test_an_expiry_that_could_not_be_written_is_tried_again(store: EmbeddedStore, log: GatedLog) -> None:
    clock = store._clock
    assert isinstance(clock, ManualClock)
    await store.txn((), (Put("a", b"1", 5),), grant=Grant(5, 10))
    clock.advance(10)
    log.fails = True
    await store.expire()
    assert await store.get("a") is not None
    with pytest.raises(LeaseNotFoundError):
        await store.keepalive(5)  # nobody is told that it lives
    log.fails = False
    clock.advance(1)
    await store.expire()
    assert await store.get("a") is None


async def test_watch_filters_by_prefix_resumes_and_tells_of_compaction(store: EmbeddedStore) -> None:
    for number in range(10):
        await store.put(f"{'even' if number % 2 == 0 else 'odd'}/{number}", b"")
    batches = await take(store, 4, count=4, prefix="odd/")
    assert [batch.revision for batch in batches] == [4, 6, 8, 10]
    # Nothing of ours, but the place to resume from moves on.
    assert await take(store, 10, count=1, prefix="even/") == [Batch(10, ())]
    await store.compact(5)
    with pytest.raises(CompactedError) as caught:
        await take(store, 5, count=1)
    assert caught.value.compact_revision == 5
    assert [batch.revision for batch in await take(store, 6, count=2)] == [6, 7]
    with pytest.raises(CompactedError):
        await store.compact(5)
    with pytest.raises(RequestError):
        await store.compact(99)


async def test_a_watcher_that_falls_out_of_history_is_told(log: GatedLog) -> None:
    async with EmbeddedStore(log, keep=10) as store, contextlib.aclosing(store.watch("", 1)) as watch:
        await store.put("key", b"")
        assert (await anext(watch)).revision == 1
        for _ in range(30):
            await store.put("key", b"")
        with pytest.raises(CompactedError):
            await anext(watch)


async def test_all_survives_a_restart(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "kv.db"
    async with EmbeddedStore.open(path, clock=clock) as store:
        await store.txn((), (Put("a", b"1", 5), Put("b", b"2")), grant=Grant(5, 60))
        await store.put("b", b"3")
        await store.delete("b")
        await store.compact(1)
        before = (await store.range("", prefix=True), await take(store, 2, count=2))
        clock.advance(20)
        await store.keepalive(5)
    clock.advance(15)
    async with EmbeddedStore.open(path, clock=clock) as store:
        assert (await store.range("", prefix=True), await take(store, 2, count=2)) == before
        assert (await store.time_to_live(5)).remaining == pytest.approx(60)
        clock.advance(60)
        await store.expire()
        assert await store.get("a") is None
    async with EmbeddedStore.open(path, clock=clock) as store:
        assert (await take(store, 4, count=1))[0].events[0].kind is EventKind.EXPIRE


async def test_after_a_restart_every_lease_has_its_ttl_anew(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "kv.db"
    async with EmbeddedStore.open(path, clock=clock) as store:
        await store.grant(Grant(1, 60))
        await store.grant(Grant(2, 60))
        await store.txn((), (Put("stays", b"", 1), Put("leaves", b"", 2)))
        clock.advance(59)
    clock.advance(1000)
    async with EmbeddedStore.open(path, clock=clock) as store:
        clock.advance(59)
        await store.expire()
        await store.keepalive(1)
        clock.advance(1)
        await store.expire()
        assert [kv.key for kv in (await store.range("", prefix=True)).kvs] == ["stays"]
