"""Watches: every change, once, whole revisions in order, and an honest word when that cannot be."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from services.storage.kv.base import (
    Batch,
    CompactedError,
    Delete,
    Event,
    EventKind,
    KeyValue,
    Put,
    RequestError,
    StorageError,
    Store,
)
from tests.conformance_kv.bench import Bench, watching


async def take(store: Store, start: int, *, count: int, prefix: str = "") -> list[Batch]:
    """Return the next batches that hold events."""
    batches: list[Batch] = []
    async with contextlib.aclosing(store.watch(prefix, start)) as watch:
        async for batch in watch:
            if batch.events:
                batches.append(batch)
            if len(batches) == count:
                break
    return batches


async def test_all_changes_of_a_revision_come_together_with_what_was_before(store: Store) -> None:
    first = (await store.txn((), (Put("b", b"1"), Put("a", b"2")))).header.revision
    second = (await store.txn((), (Delete("b"), Put("a", b"3"), Put("c", b"4")))).header.revision
    one, two = await take(store, first, count=2)
    b, a = KeyValue("b", b"1", first, first), KeyValue("a", b"2", first, first)
    assert one == Batch(first, (Event(EventKind.PUT, "b", b, None), Event(EventKind.PUT, "a", a, None)))
    assert two == Batch(
        second,
        (
            Event(EventKind.DELETE, "b", None, b),
            Event(EventKind.PUT, "a", KeyValue("a", b"3", first, second), a),
            Event(EventKind.PUT, "c", KeyValue("c", b"4", second, second), None),
        ),
    )


async def test_a_watch_begins_in_the_past_now_or_in_the_future(bench: Bench) -> None:
    store = bench.store
    revisions = [(await store.put(f"key{number}", b"")).header.revision for number in range(5)]
    now = revisions[-1]
    async with (
        watching(bench, start=revisions[2]) as past,
        watching(bench, start=now + 1) as present,
        watching(bench, start=now + 3) as future,
    ):
        later = [(await store.put(f"later{number}", b"")).header.revision for number in range(4)]
        for watcher in (past, present, future):
            await watcher.reach(later[-1])
        assert [batch.revision for batch in past.batches] == [*revisions[2:], *later]
        assert [batch.revision for batch in present.batches] == later
        assert [batch.revision for batch in future.batches] == [revision for revision in later if revision >= now + 3]


async def test_a_watch_sees_its_prefix_and_moves_on_with_the_rest(bench: Bench) -> None:
    store = bench.store
    start = (await store.put("even/0", b"")).header.revision
    for number in range(1, 10):
        await store.put(f"{'even' if number % 2 == 0 else 'odd'}/{number}", b"")
    last = (await store.txn((), (Put("even/10", b""), Put("odd/11", b"")))).header.revision
    end = (await store.put("neither", b"")).header.revision
    async with watching(bench, "odd/", start) as watcher:
        await watcher.reach(end)  # nothing of it at that revision, but the place to resume from is fresh
    assert [event.key for batch in watcher.batches for event in batch.events] == [
        *("odd/1", "odd/3", "odd/5", "odd/7", "odd/9", "odd/11")
    ]
    assert watcher.batches[-1].revision == last


async def test_a_reader_that_comes_after_compaction_is_told(store: Store) -> None:
    revisions = [(await store.put("key", str(number).encode())).header.revision for number in range(6)]
    await store.delete("key")
    gone = (await store.put("other", b"")).header.revision - 1
    await store.compact(revisions[3])
    for start in (revisions[3], revisions[0]):
        with pytest.raises(CompactedError) as caught:
            await take(store, start, count=1)
        assert caught.value.compact_revision == revisions[3]
    # What is above is whole, the value before included.
    batches = await take(store, revisions[4], count=4)
    assert [event.prev.value if event.prev else None for batch in batches for event in batch.events] == [
        *(b"3", b"4", b"5", None)
    ]
    with pytest.raises(CompactedError) as caught:
        await store.compact(revisions[3])
    assert caught.value.compact_revision == revisions[3]
    with pytest.raises(RequestError):
        await store.compact(revisions[5] + 1000)
    # A deletion that was itself compacted away is not passed over in silence.
    await store.compact(gone)
    with pytest.raises(CompactedError):
        await take(store, gone, count=1)
    assert [batch.revision for batch in await take(store, gone + 1, count=1)] == [gone + 1]
    # The way back: read, then watch from there.
    reply = await store.range("", prefix=True)
    await store.put("key", b"again")
    ((event,),) = [batch.events for batch in await take(store, reply.header.revision + 1, count=1)]
    assert (event.key, event.prev) == ("key", None)


async def test_a_revision_from_before_the_beginning_is_refused(store: Store) -> None:
    await store.put("key", b"")
    with pytest.raises(CompactedError):
        await take(store, 0, count=1)


async def test_a_large_revision_is_not_torn(store: Store) -> None:
    """On etcd it comes in parts: python-etcd3#729 is about what happens to a client that takes them one by one."""
    sizes = [Put(f"key{number:03}", bytes(11_000)) for number in range(120)]
    start = (await store.txn((), sizes)).header.revision
    again = (await store.txn((), [Put(op.key, b"1" + op.value) for op in sizes])).header.revision
    last = (await store.delete("key", prefix=True)).header.revision
    batches = await take(store, start, count=3)
    assert [(batch.revision, len(batch.events)) for batch in batches] == [(start, 120), (again, 120), (last, 120)]
    assert [event.prev.value for event in batches[2].events if event.prev] == [b"1" + op.value for op in sizes]


async def test_many_watchers_all_hear_everything(bench: Bench) -> None:
    start = bench.store.header.revision + 1
    async with contextlib.AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(watching(bench)) for _ in range(10)]
        replies = await asyncio.gather(*(bench.store.put(f"key{number}", b"") for number in range(100)))
        end = max(reply.header.revision for reply in replies)
        for watcher in watchers:
            await watcher.reach(end)
            assert [batch.revision for batch in watcher.batches] == list(range(start, end + 1))


async def test_a_watch_goes_on_after_crashes(bench: Bench) -> None:
    async with watching(bench) as watcher:
        revisions = []
        for round_ in range(2):
            revisions += [(await bench.store.put(f"key{round_}/{number}", b"")).header.revision for number in range(5)]
            await bench.crash()
            revisions += [(await bench.store.put(f"key{round_}/{number}", b"2")).header.revision for number in range(5)]
        await watcher.reach(revisions[-1])
        assert [batch.revision for batch in watcher.batches] == revisions


async def test_the_same_store_comes_back_after_a_crash(bench: Bench) -> None:
    await bench.store.put("key", b"value")
    before = bench.store.header.cluster_id, (await bench.store.range("", prefix=True)).kvs
    await bench.crash()
    assert (bench.store.header.cluster_id, (await bench.store.range("", prefix=True)).kvs) == before


async def test_closing_ends_watches_and_refuses_the_rest(bench: Bench) -> None:
    watch = bench.store.watch("", 1_000_000_000)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await bench.store.close()
    with pytest.raises(StorageError, match="clos"):
        await waiting
    with pytest.raises(StorageError, match="clos"):
        await bench.store.put("key", b"")
