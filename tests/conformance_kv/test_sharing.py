"""One etcd for several meshes, and several control processes for one."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable

import pytest

from mesh.api.registry.v1 import (
    HEALTH_SERVING,
    LEASE_STATE_GONE,
    LEASE_STATE_LIVE,
    LEASE_STATE_REPLACED,
    Instance,
    WatchResponse,
)
from services.registry.domain import Registry
from services.storage.kv.etcd.options import parse_url
from services.storage.kv.etcd.store import EtcdStore
from tests.conformance_kv.bench import EtcdBench, watching
from tests.conformance_kv.etcd_server import EtcdMember, url_of


@pytest.fixture
def opened(etcd: EtcdMember) -> Callable[[str], contextlib.AbstractAsyncContextManager[EtcdStore]]:
    return lambda namespace: EtcdStore(parse_url(url_of([etcd], namespace)))


async def test_namespaces_do_not_see_each_other_and_yet_catch_up(etcd: EtcdMember) -> None:
    ours, theirs = EtcdBench(etcd), EtcdBench(etcd)
    await ours.open()
    await theirs.open()
    assert ours.store.header.cluster_id != theirs.store.header.cluster_id
    async with watching(ours) as watcher:
        await ours.store.put("key", b"ours")
        for _ in range(5):
            await theirs.store.put("key", b"theirs")
        reply = await ours.store.range("", prefix=True)
        assert [kv.value for kv in reply.kvs] == [b"ours"]
        # A revision of theirs, made known to one of ours: our watches come to it all the same.
        assert reply.header.revision > (await ours.store.get("key")).mod_revision  # type: ignore[union-attr]
        await watcher.reach(reply.header.revision)
        assert [event.key for batch in watcher.batches for event in batch.events] == ["key"]
    await ours.close()
    await theirs.close()


def an_instance(instance_id: str) -> Instance:
    return Instance(service="shop", instance_id=instance_id, endpoints=["127.0.0.1:1"], health=HEALTH_SERVING)


async def test_control_processes_share_a_fleet(
    opened: Callable[[str], contextlib.AbstractAsyncContextManager[EtcdStore]],
) -> None:
    namespace = uuid.uuid4().hex
    async with (
        opened(namespace) as store_a,
        opened(namespace) as store_b,
        Registry(store_a) as a,
        Registry(store_b) as b,
    ):
        assert store_a.header.cluster_id == store_b.header.cluster_id
        # What one has granted the other renews, at once, whether or not it has heard of it yet.
        leases = []
        for number in range(10):
            lease_id = (await a.register(an_instance(f"one-{number}"), 60.0)).lease_id
            assert (await b.keepalive(lease_id))[0] == LEASE_STATE_LIVE
            leases.append(lease_id)
        # A watcher that comes over from the one goes on at the other, even where that one is behind.
        done = await a.register(an_instance("two"), 60.0)
        async with contextlib.aclosing(
            b.watching.watch("", done.header.revision + 1, done.header.cluster_id)
        ) as updates:
            changed, _ = await a.update(done.lease_id, lambda instance: setattr(instance, "version", "2"))
            update = WatchResponse.FromString((await anext(updates)).data)
            assert update.WhichOneof("update") == "changes"
            assert update.header.revision == changed.revision
        # Replaced through the other one, and told so by either.
        again = await b.register(an_instance("two"), 60.0)
        assert (await a.keepalive(done.lease_id))[0] == LEASE_STATE_REPLACED
        assert (await a.keepalive(again.lease_id))[0] == LEASE_STATE_LIVE
        # Gone through the other one.
        await b.deregister(leases[0])
        assert (await b.keepalive(leases[0]))[0] == LEASE_STATE_GONE
        await a.deregister((await b.register(an_instance("three"), 60.0)).lease_id)
        assert sorted(instance.instance_id for instance in a.list("shop", 100, "").instances) == [
            *(f"one-{number}" for number in range(1, 10)),
            "two",
        ]
