"""Reads and transactions: every driver answers alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from services.storage.kv.base import (
    MAX_REQUEST_BYTES,
    MAX_TXN_OPERATIONS,
    Compare,
    Delete,
    Field,
    Grant,
    KeyValue,
    LeaseNotFoundError,
    Operation,
    Put,
    Range,
    RequestError,
    Store,
    absent,
    exists,
    unchanged,
)
from tests.conformance_kv.bench import LONG, new_lease


async def test_a_key_is_put_read_changed_and_deleted(store: Store) -> None:
    assert await store.get("key") is None
    first = (await store.put("key", b"1")).header.revision
    assert await store.get("key") == KeyValue("key", b"1", first, first)
    reply = await store.put("key", b"\x00\xff")
    second = reply.header.revision
    assert second > first
    assert reply.results == ((KeyValue("key", b"1", first, first),),)
    assert await store.get("key") == KeyValue("key", b"\x00\xff", first, second)
    reply = await store.delete("key")
    assert reply.results == ((KeyValue("key", b"\x00\xff", first, second),),)
    assert await store.get("key") is None
    reborn = (await store.put("key", b"2")).header.revision
    assert await store.get("key") == KeyValue("key", b"2", reborn, reborn)


async def test_what_changes_nothing_has_no_revision(store: Store) -> None:
    revision = (await store.put("key", b"")).header.revision
    assert (await store.delete("nothing")).header.revision == revision
    assert (await store.delete("nothing", prefix=True)).results == ((),)
    assert (await store.txn((), (Range("key"),))).header.revision == revision
    assert (await store.txn((absent("key"),), (Put("key", b"2"),))).header.revision == revision
    assert (await store.range("", prefix=True)).header.revision == revision
    assert (await store.txn((), ())).header.revision == revision


async def test_ranges_are_ordered_by_code_point(store: Store) -> None:
    keys = ["", "a", "a/1", "a/10", "a/2", "aa", "b", "ä", "中", "\U0001f600", "~"]
    await asyncio.gather(*(store.put(key, key.encode()) for key in reversed(keys)))
    assert [kv.key for kv in (await store.range("", prefix=True)).kvs] == sorted(keys)
    assert [kv.key for kv in (await store.range("a/", prefix=True)).kvs] == ["a/1", "a/10", "a/2"]
    assert [kv.key for kv in (await store.range("a", prefix=False)).kvs] == ["a"]
    assert [kv.key for kv in (await store.range("ä", prefix=True)).kvs] == ["ä"]
    assert (await store.range("zz", prefix=True)).kvs == ()


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (lambda kv: exists("key"), True),
        (lambda kv: absent("key"), False),
        (lambda kv: exists("other"), False),
        (lambda kv: absent("other"), True),
        (lambda kv: unchanged("key", kv.mod_revision), True),
        (lambda kv: unchanged("key", kv.create_revision), False),
        (lambda kv: unchanged("other", 0), True),
        (lambda kv: unchanged("key", 0), False),
        (lambda kv: Compare("key", Field.CREATE_REVISION, kv.create_revision), True),
        (lambda kv: Compare("key", Field.MOD_REVISION, kv.mod_revision, equal=False), False),
        (lambda kv: Compare("other", Field.MOD_REVISION, 1, equal=False), True),
    ],
)
async def test_comparisons(store: Store, compare: Callable[[KeyValue], Compare], holds: bool) -> None:  # noqa: FBT001
    await store.put("key", b"1")
    await store.put("key", b"2")
    kv = await store.get("key")
    assert kv is not None
    reply = await store.txn((compare(kv),), (Put("then", b""),), (Put("else", b""),))
    assert reply.succeeded is holds
    assert (await store.get("then") is not None, await store.get("else") is not None) == (holds, not holds)
    # One that does not hold is enough.
    assert not (await store.txn((compare(kv), exists("nowhere")), (Put("late", b""),))).succeeded
    assert await store.get("late") is None


async def test_a_transaction_is_one_revision_and_reads_its_own_writes(store: Store) -> None:
    await store.put("old/1", b"1")
    await store.put("old/2", b"2")
    before = (await store.range("old/", prefix=True)).kvs
    reply = await store.txn((), (Put("new", b"3"), Delete("old/", prefix=True), Range("", prefix=True), Range("old/1")))
    kv = KeyValue("new", b"3", reply.header.revision, reply.header.revision)
    assert reply.results == ((), before, (kv,), ())
    assert (await store.range("", prefix=True)).kvs == (kv,)


@pytest.mark.parametrize(
    "operations",
    [
        (Put("a", b""), Put("a", b"")),
        (Put("a", b""), Delete("a")),
        (Delete("a"), Put("a", b"")),
        (Delete("", prefix=True), Put("a", b"")),
        (Put("a/b", b""), Delete("a/", prefix=True)),
    ],
)
async def test_a_key_changes_once_in_a_transaction(store: Store, operations: tuple[Operation, ...]) -> None:
    for then, orelse in ((operations, ()), ((), operations)):
        with pytest.raises(RequestError):
            await store.txn((), then, orelse)
    assert (await store.range("", prefix=True)).kvs == ()


async def test_deletions_may_overlap(store: Store) -> None:
    await store.put("a/1", b"")
    reply = await store.txn((), (Delete("a/1"), Delete("a/", prefix=True), Delete("a/1"), Put("b", b"")))
    assert [len(result) for result in reply.results] == [1, 0, 0, 0]


async def test_limits(store: Store) -> None:
    at_most = tuple(Put(f"key{number:03}", b"") for number in range(MAX_TXN_OPERATIONS))
    lease_id = new_lease()
    reply = await store.txn((), at_most, grant=Grant(lease_id, LONG))
    assert len(reply.results) == MAX_TXN_OPERATIONS
    bound = tuple(Put(op.key, b"", lease_id) for op in at_most)
    assert (await store.txn((), bound)).succeeded
    await store.put("large", bytes(MAX_REQUEST_BYTES - 4096))
    too_many: tuple[tuple[Operation, ...], ...] = (
        (*at_most, Range("x")),
        (Put("large", bytes(MAX_REQUEST_BYTES)),),
        (Put("half", bytes(MAX_REQUEST_BYTES // 2)), Put("other half", bytes(MAX_REQUEST_BYTES // 2))),
    )
    for too_much in too_many:
        with pytest.raises(RequestError):
            await store.txn((), too_much)
    with pytest.raises(RequestError):
        await store.txn([absent("x")] * (MAX_TXN_OPERATIONS + 1), ())


async def test_one_of_many_writers_wins_each_round(store: Store) -> None:
    await store.put("count", b"0")

    async def count(rounds: int) -> None:
        while rounds:
            kv = await store.get("count")
            assert kv is not None
            change = Put("count", str(int(kv.value) + 1).encode())
            rounds -= (await store.txn((unchanged("count", kv.mod_revision),), (change,))).succeeded

    await asyncio.gather(*(count(5) for _ in range(8)))
    kv = await store.get("count")
    assert kv is not None
    assert kv.value == b"40"


async def test_a_lease_is_granted_with_what_is_bound_to_it_or_not_at_all(store: Store) -> None:
    one, other = new_lease(), new_lease()
    reply = await store.txn((absent("a"),), (Put("a", b"", one),), grant=Grant(one, LONG))
    assert reply.succeeded
    kv = await store.get("a")
    assert kv is not None
    assert kv.lease == one
    assert (await store.time_to_live(one)).ttl == LONG
    # The comparisons fail: no lease comes of it, whether or not its id is taken.
    for lease_id in (other, one):
        reply = await store.txn((absent("a"),), (Put("b", b"", other),), (Range("a"),), grant=Grant(lease_id, LONG))
        assert (reply.succeeded, reply.results) == (False, ((kv,),))
    with pytest.raises(LeaseNotFoundError):
        await store.time_to_live(other)
    assert (await store.time_to_live(one)).ttl == LONG
    # They fail, and so there is nothing to bind to.
    with pytest.raises(LeaseNotFoundError):
        await store.txn((absent("a"),), (), (Put("b", b"", other),), grant=Grant(other, LONG))
    assert await store.get("b") is None
    # They hold, and the id is taken.
    with pytest.raises(RequestError, match="exists already"):
        await store.txn((), (Put("b", b"", one),), grant=Grant(one, LONG))
    assert await store.get("b") is None


async def test_nothing_is_bound_to_a_lease_that_does_not_exist(store: Store) -> None:
    missing, mine = new_lease(), new_lease()
    with pytest.raises(LeaseNotFoundError) as caught:
        await store.txn((), (Put("a", b""), Put("b", b"", missing)))
    assert caught.value.lease_id == missing
    assert (await store.range("", prefix=True)).kvs == ()
    # In the list that is not run it does not matter.
    assert (await store.txn((), (Put("a", b""),), (Put("b", b"", missing),))).succeeded
    # A lease that was to be granted for it is not left behind.
    with pytest.raises(LeaseNotFoundError):
        await store.txn((), (Put("b", b"", missing), Put("c", b"", mine)), grant=Grant(mine, LONG))
    with pytest.raises(LeaseNotFoundError):
        await store.time_to_live(mine)
