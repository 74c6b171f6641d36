from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mesh.api.registry.v1 import (
    DeregisterRequest,
    KeepAliveRequest,
    RegistryStub,
    WatchRequest,
)
from mesh.errors import StartError
from services.host import Host, Hosted
from services.registry.domain import Registry
from services.registry.servicer import SERVICE, add_registry
from services.storage.kv.embedded import EmbeddedStore

# Far longer than a test may last: who waits for it, hangs.
GRACE = 3600.0


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with EmbeddedStore.open(tmp_path / "kv.db") as store, Registry(store) as opened:
        yield opened


@pytest.fixture
async def host(registry: Registry) -> Host:
    return Host("127.0.0.1:0", [Hosted(SERVICE, lambda server: add_registry(registry, server))], option="--listen")


@pytest.fixture
async def channel(host: Host) -> AsyncIterator[grpc.aio.Channel]:
    address = await host.start()
    async with grpc.aio.insecure_channel(address) as opened:
        yield opened
        await host.stop(0)


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    """Read what a stream still has, and return how it failed."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the stream ended well")


async def test_it_tells_its_health(host: Host, channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE):
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="unknown"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_it_reflects(host: Host, channel: grpc.aio.Channel) -> None:
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    reply = await call.read()
    names = [service.name for service in reply.list_services_response.service]
    assert names == ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", SERVICE]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_stop_ends_every_stream_with_a_word_and_at_once(host: Host, channel: grpc.aio.Channel) -> None:
    registry: Any = RegistryStub(channel)
    watch = registry.Watch(WatchRequest())
    await watch.read()
    idle, used = registry.KeepAlive(), registry.KeepAlive()
    await used.write(KeepAliveRequest(lease_id=1))
    await used.read()
    health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    await health.read()
    reflecting = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await reflecting.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    await reflecting.read()
    await idle.wait_for_connection()

    await host.stop(GRACE)
    for call in (watch, idle, used, health, reflecting):
        error = await asyncio.wait_for(failure_of(call), 20)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == "this server is stopping: connect again"


async def test_a_client_that_leaves_ends_its_stream(host: Host, channel: grpc.aio.Channel, registry: Registry) -> None:
    ended = asyncio.Event()
    real = registry.watching.watch

    async def noticed(*args: Any, **options: Any) -> Any:
        try:
            async with contextlib.aclosing(real(*args, **options)) as updates:
                async for update in updates:
                    yield update
        finally:
            ended.set()

    registry.watching.watch = noticed  # type: ignore[method-assign]
    watch: Any = RegistryStub(channel).Watch(WatchRequest())
    await watch.read()
    watch.cancel()
    await asyncio.wait_for(ended.wait(), 20)


async def test_a_stop_lets_calls_finish(host: Host, channel: grpc.aio.Channel, registry: Registry) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    real = registry.deregister

    async def slow(lease_id: int) -> Any:
        entered.set()
        await leave.wait()
        return await real(lease_id)

    registry.deregister = slow  # type: ignore[method-assign]
    call: Any = RegistryStub(channel).Deregister(DeregisterRequest(lease_id=1))
    await entered.wait()
    stopping = asyncio.create_task(host.stop(GRACE))
    await asyncio.sleep(0)
    leave.set()
    assert (await call).header.cluster_id == registry.header.cluster_id
    await stopping


async def test_a_port_in_use_is_told_in_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        host = Host(address, [], option="--listen")
        with pytest.raises(StartError) as caught:
            await host.start()
        assert str(caught.value) == (
            f"cannot listen on {address} (Address already in use): free it, or choose another with --listen HOST:PORT"
        )
        await host.stop(0)


async def test_an_address_of_another_machine_is_told_in_a_sentence() -> None:
    host = Host("192.0.2.1:7711", [], option="--listen")
    with pytest.raises(StartError, match=r"cannot listen on 192.0.2.1:7711 \(Cannot assign requested address\)"):
        await host.start()
    await host.stop(0)


async def test_two_hosts_do_not_share_a_port(host: Host, channel: grpc.aio.Channel) -> None:
    second = Host(f"127.0.0.1:{host._server.add_insecure_port('127.0.0.1:0')}", [], option="--listen")
    with pytest.raises(StartError):
        await second.start()
    await second.stop(0)
