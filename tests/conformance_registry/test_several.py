"""Several control processes on one store: a drain waits for the watchers of all, and one of them checks an instance."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from mesh.api.registry.v1 import (
    EXPOSURE_INTERNAL,
    HEALTH_SERVING,
    WAITING_CAUSE_CONTROL,
    Acknowledgement,
    DrainRequest,
    FollowRequest,
    HealthCheck,
    Instance,
    InstanceName,
    RegistryStub,
    WatchRequest,
)
from services.host import Host, Hosted
from services.registry.domain import Registry
from services.registry.peers import SERVICE as CONTROL
from services.registry.servicer import SERVICE, add_registry
from services.storage.kv.base import Store
from tests.conformance_registry.conftest import OpenStore

PATIENCE = 30.0


@contextlib.asynccontextmanager
async def control(store: Store, name: str) -> AsyncIterator[tuple[Registry, Any]]:
    """Run one control process, as far as the others can tell, and know it by a stub."""
    async with Registry(store, me=name) as registry:
        host = Host("127.0.0.1:0", [Hosted(SERVICE, lambda server: add_registry(registry, server))], option="--listen")
        address = await host.start()
        await registry.register(an_instance(name, CONTROL, endpoints=[address]), 60)
        async with grpc.aio.insecure_channel(address) as channel:
            yield registry, RegistryStub(channel)
        await host.stop(0)


def an_instance(name: str, service: str = "orders", **fields: Any) -> Instance:
    wanted = {"endpoints": ["127.0.0.1:1"], "exposure": EXPOSURE_INTERNAL, "health": HEALTH_SERVING, **fields}
    return Instance(service=service, instance_id=name, weight=100, **wanted)


async def following(stub: Any, name: str) -> Any:
    call = stub.Follow()
    await call.write(FollowRequest(watch=WatchRequest(watcher=name)))
    await asyncio.wait_for(call.read(), PATIENCE)
    return call


async def test_a_drain_waits_for_the_watchers_of_all(open_store: OpenStore) -> None:
    async with (
        control(await open_store(), "one") as (registry, one),
        control(await open_store(), "two") as (_, two),
    ):
        await registry.register(an_instance("a"), 60)
        near, far = await following(one, "near"), await following(two, "far")
        asked = DrainRequest(instance=InstanceName(instance_id="a"), timeout_seconds=PATIENCE)
        drain = one.Drain(asked)
        waiting: set[str] = set()
        while waiting != {"near", "two"}:  # the other one has not been heard yet
            waiting = {waits.watcher for waits in (await asyncio.wait_for(drain.read(), PATIENCE)).waiting}
        for call in (near, far):
            told = await asyncio.wait_for(call.read(), PATIENCE)
            while not told.acknowledge:
                told = await asyncio.wait_for(call.read(), PATIENCE)
            await call.write(FollowRequest(acknowledged=Acknowledgement(revision=told.header.revision)))
        while not (last := await asyncio.wait_for(drain.read(), PATIENCE)).done:
            pass
        assert (last.acknowledged, list(last.waiting)) == (2, [])


async def test_one_that_does_not_answer_is_named(open_store: OpenStore) -> None:
    async with control(await open_store(), "one") as (registry, one):
        await registry.register(an_instance("dead", CONTROL), 60)
        await registry.register(an_instance("a"), 60)
        drain = one.Drain(DrainRequest(instance=InstanceName(instance_id="a"), timeout_seconds=0.2))
        while not (last := await asyncio.wait_for(drain.read(), PATIENCE)).done:
            pass
        assert [(waits.watcher, waits.cause) for waits in last.waiting] == [("dead", WAITING_CAUSE_CONTROL)]


async def test_each_instance_is_checked_by_one_of_them(open_store: OpenStore) -> None:
    async with (
        control(await open_store(), "one") as (one, _),
        control(await open_store(), "two") as (two, _),
    ):
        check = HealthCheck(interval_seconds=300, timeout_seconds=1, unhealthy_threshold=3, healthy_threshold=1)
        for number in range(20):
            await one.register(an_instance(str(number), check=check), 60)
        await two._live.catch_up()
        mine, theirs = set(one._checker._running), set(two._checker._running)
        assert not mine & theirs
        assert len(mine | theirs) == 20
        assert mine
        assert theirs
