"""Leases: what lives by them, and how that ends."""

from __future__ import annotations

import pytest

from services.storage.kv.base import Delete, EventKind, Grant, LeaseNotFoundError, Put, RequestError, Store
from tests.conformance_kv.bench import LONG, SHORT, Bench, new_lease, watching


async def test_a_lease_is_granted_renewed_and_revoked(store: Store) -> None:
    granted = await store.grant(Grant(2**63 - 1, LONG))
    assert (granted.lease_id, granted.ttl) == (2**63 - 1, LONG)
    with pytest.raises(RequestError, match="exists already"):
        await store.grant(Grant(2**63 - 1, LONG))
    renewed = await store.keepalive(2**63 - 1)
    assert (renewed.ttl, renewed.remaining) == (LONG, LONG)
    left = await store.time_to_live(2**63 - 1)
    assert LONG - 60 < left.remaining <= left.ttl == LONG
    await store.revoke(2**63 - 1)
    for call in (store.keepalive, store.time_to_live, store.revoke):
        with pytest.raises(LeaseNotFoundError):
            await call(2**63 - 1)
    await store.grant(Grant(2**63 - 1, LONG))  # the id can be used again


@pytest.mark.parametrize("grant", [Grant(0, 1), Grant(-1, 1), Grant(2**63, 1), Grant(1, 0), Grant(1, float("inf"))])
async def test_what_is_no_lease_is_refused(store: Store, grant: Grant) -> None:
    with pytest.raises(RequestError):
        await store.grant(grant)


async def test_a_lease_that_runs_out_takes_its_keys_at_one_revision(bench: Bench) -> None:
    one, other = new_lease(), new_lease()
    store = bench.store
    keys = (Put("a", b"1", one), Put("b", b"2", one), Put("c", b"3"), Put("d", b"4", one), Put("e", b"5", one))
    await store.grant(Grant(other, LONG))
    await store.txn((), keys, grant=Grant(one, SHORT))
    # It may leave its lease before the end: for another one, for none, or for good.
    await store.txn((), (Put("d", b"4", other), Put("e", b"5")))
    bound = [await store.get(key) for key in "ab"]
    async with watching(bench) as watcher:
        await bench.run_out(one)
        await watcher.reach((await store.range("")).header.revision)
        (batch,) = watcher.batches
    assert [(event.kind, event.key, event.kv) for event in batch.events] == [
        (EventKind.EXPIRE, "a", None),
        (EventKind.EXPIRE, "b", None),
    ]
    assert [event.prev for event in batch.events] == bound
    assert [kv.key for kv in (await store.range("", prefix=True)).kvs] == ["c", "d", "e"]
    for call in (store.keepalive, store.time_to_live, store.revoke):
        with pytest.raises(LeaseNotFoundError):
            await call(one)


async def test_giving_up_a_lease_deletes(bench: Bench) -> None:
    one = new_lease()
    store = bench.store
    await store.txn((), (Put("a", b"1", one), Put("b", b"2", one), Put("c", b"3")), grant=Grant(one, LONG))
    async with watching(bench) as watcher:
        await watcher.reach((await store.revoke(one)).revision)
        (batch,) = watcher.batches
    assert [(event.kind, event.key) for event in batch.events] == [(EventKind.DELETE, "a"), (EventKind.DELETE, "b")]
    assert [kv.key for kv in (await store.range("", prefix=True)).kvs] == ["c"]


async def test_deleting_the_keys_of_a_lease_is_no_expiry_and_leaves_the_lease(bench: Bench) -> None:
    one = new_lease()
    store = bench.store
    await store.txn((), (Put("a", b"1", one), Put("b", b"2", one)), grant=Grant(one, LONG))
    async with watching(bench) as watcher:
        await watcher.reach((await store.txn((), (Delete("", prefix=True),))).header.revision)
        (batch,) = watcher.batches
    assert [event.kind for event in batch.events] == [EventKind.DELETE, EventKind.DELETE]
    assert (await store.keepalive(one)).ttl == LONG
    await store.put("c", b"", lease=one)


async def test_leases_survive_a_crash(bench: Bench) -> None:
    one, other = new_lease(), new_lease()
    await bench.store.txn((), (Put("a", b"1", one),), grant=Grant(one, LONG))
    await bench.store.txn((), (Put("b", b"2", other),), grant=Grant(other, LONG))
    await bench.store.revoke(other)
    await bench.crash()
    assert (await bench.store.keepalive(one)).ttl == LONG
    kv = await bench.store.get("a")
    assert kv is not None
    assert kv.lease == one
    with pytest.raises(LeaseNotFoundError):
        await bench.store.keepalive(other)
