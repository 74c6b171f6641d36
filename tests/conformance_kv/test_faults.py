"""The backend dies under load: nothing acknowledged is lost, and watches miss and repeat nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator

import pytest

from mesh.errors import StartError
from services.storage.kv.base import Grant, Put, StorageError
from services.storage.kv.etcd.options import parse_url
from services.storage.kv.etcd.store import EtcdStore
from tests.conformance_kv.bench import LONG, Bench, new_lease
from tests.conformance_kv.etcd_server import EtcdMember, running_etcd, url_of
from tests.conformance_kv.load import loaded


async def test_crashes_under_load(bench: Bench) -> None:
    async with loaded(bench) as load:
        for _ in range(3):
            await load.progress(20)
            await bench.crash()
        await load.progress(20)


class ClusterBench(Bench):
    """Three members; the store knows all of them."""

    exact = False

    def __init__(self, members: list[EtcdMember]) -> None:
        self.members = members

    async def open(self) -> None:
        options = dataclasses.replace(parse_url(url_of(self.members, "faults")), attempt_timeout=1.0)
        self.store = await EtcdStore(options).__aenter__()

    async def crash(self) -> None:
        raise NotImplementedError

    async def run_out(self, lease_id: int) -> None:
        raise NotImplementedError

    @property
    def in_use(self) -> EtcdMember:
        assert isinstance(self.store, EtcdStore)
        address = self.store._members.current.address
        return next(member for member in self.members if member.client == address)

    def leader(self) -> EtcdMember:
        return next(member for member in self.members if member.process is not None and member.is_leader())


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[EtcdMember]]:
    with running_etcd(tmp_path_factory.mktemp("cluster"), 3) as started:
        yield started


@pytest.fixture
async def cluster(members: list[EtcdMember]) -> AsyncIterator[ClusterBench]:
    made = ClusterBench(members)
    await made.open()
    yield made
    await made.close()


async def test_members_die_one_after_another(cluster: ClusterBench) -> None:
    lease_id = new_lease()
    await cluster.store.txn((), (Put("bound", b"", lease_id),), grant=Grant(lease_id, LONG))
    async with loaded(cluster) as load:
        await load.progress(20)
        # The one that we talk to.
        used = cluster.in_use
        used.kill()
        await load.progress(20)
        assert cluster.in_use is not used
        await asyncio.to_thread(used.restart)
        # The leader, whether or not we talk to it.
        leader = await asyncio.to_thread(cluster.leader)
        leader.kill()
        await load.progress(20)
        assert (await cluster.store.keepalive(lease_id)).ttl == LONG
        await asyncio.to_thread(leader.restart)
        await load.progress(20)


async def test_a_member_that_hangs_is_left(cluster: ClusterBench) -> None:
    await cluster.store.put("key", b"1")
    used = cluster.in_use
    used.pause()
    try:
        kv = await cluster.store.get("key")
        assert kv is not None
        assert cluster.in_use is not used
    finally:
        used.go_on()


async def test_without_a_majority_nothing_is_served_and_then_all_is(cluster: ClusterBench) -> None:
    await cluster.store.put("key", b"1")
    down = cluster.members[:2]
    for member in down:
        member.kill()
    impatient = dataclasses.replace(parse_url(url_of(cluster.members, "faults")), timeout=2.0, attempt_timeout=1.0)
    with pytest.raises(StartError, match="cannot be opened"):
        await EtcdStore(impatient).__aenter__()
    writing = asyncio.create_task(cluster.store.txn((), (Put("key", b"2"),)))
    for member in down:
        await asyncio.to_thread(member.restart)
    with contextlib.suppress(StorageError):  # it may have been told that its outcome is unknown
        await writing
    await cluster.store.put("key", b"3")
    kv = await cluster.store.get("key")
    assert kv is not None
    assert kv.value == b"3"
