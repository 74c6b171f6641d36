"""Watches, acknowledgements and drains as clients have them, and how refusals look to programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mesh.api.registry.v1 import (
    HEALTH_DRAINING,
    HEALTH_NOT_SERVING,
    WAITING_CAUSE_CANNOT,
    WAITING_CAUSE_PENDING,
    Acknowledgement,
    AwaitAcknowledgedRequest,
    DrainRequest,
    FollowRequest,
    HealthCheck,
    Instance,
    InstanceName,
    KeepAliveRequest,
    RegisterRequest,
    RegistryStub,
    UpdateRequest,
    WatchRequest,
)
from services.host import Host, Hosted
from services.registry import watching
from services.registry.servicer import SERVICE, add_registry
from tests.unit.services.registry.world import World

PATIENCE = 30.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "kv.db")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def stub(world: World) -> AsyncIterator[Any]:
    host = Host(
        "127.0.0.1:0", [Hosted(SERVICE, lambda server: add_registry(world.registry, server))], option="--listen"
    )
    address = await host.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield RegistryStub(channel)
        await host.stop(0)


def register(instance_id: str, **fields: Any) -> RegisterRequest:
    instance = Instance(service="orders", instance_id=instance_id, endpoints=["127.0.0.1:1"], **fields)
    return RegisterRequest(instance=instance, ttl_seconds=60)


async def following(stub: Any, name: str, **fields: Any) -> Any:
    call = stub.Follow()
    await call.write(FollowRequest(watch=WatchRequest(watcher=name, **fields)))
    await asyncio.wait_for(call.read(), PATIENCE)
    return call


async def test_a_drain_waits_for_followers_and_names_plain_watchers(world: World, stub: Any) -> None:
    lease = (await stub.Register(register("a"))).lease_id
    edge = await following(stub, "edge-1")
    plain = stub.Watch(WatchRequest(watcher="old"))
    await plain.read()
    drain = stub.Drain(DrainRequest(lease_id=lease, reason="going home"))
    first = await drain.read()
    assert {(one.watcher, one.cause) for one in first.waiting} == {
        ("edge-1", WAITING_CAUSE_PENDING),
        ("old", WAITING_CAUSE_CANNOT),
    }
    told = await edge.read()
    assert told.acknowledge
    assert told.changes.changes[0].instance.health_reason == "going home"
    assert await plain.read() == told  # the very same bytes
    world.clock.advance(2)  # the plain one has had its second
    await edge.write(FollowRequest(acknowledged=Acknowledgement(revision=told.header.revision)))
    while not (last := await asyncio.wait_for(drain.read(), PATIENCE)).done:
        pass
    assert (last.done, last.acknowledged, last.waiting_count) == (True, 1, 1)
    assert last.drain_revision == told.header.revision
    # Another control process would ask for the same, and hear it.
    asked = await stub.AwaitAcknowledged(AwaitAcknowledgedRequest(service="orders", revision=last.drain_revision))
    assert (asked.acknowledged, [one.watcher for one in asked.waiting]) == (1, ["old"])


async def test_a_drain_without_watchers_is_over_at_once(stub: Any) -> None:
    await stub.Register(register("a"))
    (only,) = [step async for step in stub.Drain(DrainRequest(instance=InstanceName(instance_id="a")))]
    assert (only.done, only.instance.service) == (True, "orders")


async def test_an_instance_hears_that_it_is_drained(stub: Any) -> None:
    lease = (await stub.Register(register("a"))).lease_id
    alive = stub.KeepAlive()
    await alive.write(KeepAliveRequest(lease_id=lease, health=HEALTH_NOT_SERVING, health_reason="warming\nup"))
    assert not (await alive.read()).draining
    async for _ in stub.Drain(DrainRequest(instance=InstanceName(service="orders", instance_id="a"))):
        pass
    await alive.write(KeepAliveRequest(lease_id=lease))
    assert (await alive.read()).draining
    watch = stub.Watch(WatchRequest())
    (instance,) = (await watch.read()).snapshot.instances
    assert instance.health == HEALTH_DRAINING
    assert instance.opinions[0].reason == "warming up"


async def test_a_follower_must_say_what_first(stub: Any) -> None:
    call = stub.Follow()
    await call.write(FollowRequest(acknowledged=Acknowledgement(revision=1)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_who_takes_nothing_is_cut_off_and_can_resume(
    world: World, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_INTERVAL", 0.01)
    lease = (await stub.Register(register("a"))).lease_id
    call = await following(stub, "slow")
    (watcher,) = world.registry.watching.watchers
    number = 0
    async with asyncio.timeout(PATIENCE):
        while not watcher.writing_since or watcher.peer == "":
            number += 1  # until all buffers on the way are full
            metadata = {f"k{entry}": f"{number}" + "v" * 1000 for entry in range(60)}
            update = UpdateRequest(lease_id=lease)
            update.metadata.metadata.update(metadata)
            await stub.Update(update)
    world.clock.advance(watching.MAX_WRITE_SECONDS + 1)
    world.registry.watching.cut_slow()
    revisions = [0]

    async def drain() -> None:
        while (response := await asyncio.wait_for(call.read(), PATIENCE)) is not grpc.aio.EOF:
            revisions.append(response.header.revision)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drain()
    last = revisions[-1]
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    info, retry = details(caught.value)
    assert info.reason == "WATCHER_TOO_SLOW"
    assert retry.retry_delay.seconds == 1
    cluster = world.registry.header.cluster_id
    resumed = stub.Watch(WatchRequest(start_revision=last + 1, cluster_id=cluster))
    await stub.Update(UpdateRequest(lease_id=lease, version="2"))
    assert (await asyncio.wait_for(resumed.read(), PATIENCE)).header.revision == last + 1


def details(error: grpc.aio.AioRpcError) -> list[Any]:
    kinds = (
        *(error_details_pb2.BadRequest, error_details_pb2.ErrorInfo),
        *(error_details_pb2.RetryInfo, error_details_pb2.ResourceInfo),
    )
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # an error of grpc.aio has what it needs
    assert status is not None
    found = []
    for packed in status.details:
        kind = next(kind for kind in kinds if packed.Is(kind.DESCRIPTOR))
        message = kind()
        packed.Unpack(message)
        found.append(message)
    return found


@pytest.mark.parametrize(
    ("fields", "where", "what"),
    [
        ({"warm_up_seconds": -1}, "instance.warm_up_seconds", "'-1' must be 0 to 3600 seconds"),
        ({"health_reason": "x" * 300}, "instance.health_reason", "must be at most 256 characters"),
        (
            {"check": HealthCheck(interval_seconds=0.5)},
            "instance.check.interval_seconds",
            "'0.5' must be 1 to 300 seconds",
        ),
        (
            {"check": HealthCheck(interval_seconds=5, timeout_seconds=6)},
            "instance.check.timeout_seconds",
            "'6' must be 0.1 to 5 seconds",
        ),
        ({"check": HealthCheck(unhealthy_threshold=11)}, "instance.check.unhealthy_threshold", "'11' must be 1 to 10"),
        ({"check": HealthCheck(grpc_service="no name")}, "instance.check.grpc_service", "the full name"),
        ({"check": HealthCheck(), "metadata": {"tls": "on"}}, "instance.check", "the registry checks in plaintext"),
        ({"zone": "z" * 129}, "instance.zone", "must be at most 128 characters"),
    ],
)
async def test_a_field_that_is_wrong_is_named_for_programs(
    stub: Any, fields: dict[str, Any], where: str, what: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Register(register("a", **fields))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (bad,) = details(caught.value)
    assert bad.field_violations[0].field == where
    assert what in bad.field_violations[0].description


async def test_refusals_say_why_for_programs(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Update(UpdateRequest(lease_id=5, version="2"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert [(one.reason, one.domain) for one in details(caught.value)] == [("LEASE_GONE", "registry.mesh")]
    older = (await stub.Register(register("a"))).lease_id
    await stub.Register(register("a"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Update(UpdateRequest(lease_id=older, version="2"))
    assert [one.reason for one in details(caught.value)] == ["LEASE_REPLACED"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Drain(DrainRequest(instance=InstanceName(instance_id="nobody"))).read()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    resource, info = details(caught.value)
    assert (resource.resource_name, info.reason) == ("nobody", "NO_SUCH_INSTANCE")
    for wrong in (DrainRequest(), DrainRequest(lease_id=older, cancel=True)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Drain(wrong).read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
