"""The edge follows the registry: what registers gets calls, what leaves gets none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.discovery.model import Instance
from mesh.discovery.registration import Registration
from tests.e2e.harness import RunningMesh

NAME = "followed.v1.Followed"
METHOD = f"/{NAME}/Who"
Status = health_pb2.HealthCheckResponse


@contextlib.asynccontextmanager
async def server(answer: bytes) -> AsyncIterator[str]:
    """Serve one method that answers always the same."""

    async def who(_request: bytes, _context: object) -> bytes:
        return answer

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(who)
    made = grpc.aio.server()
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, {"Who": handler}),))
    port = made.add_insecure_port("127.0.0.1:0")
    await made.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await made.stop(None)


@contextlib.asynccontextmanager
async def registered(mesh: RunningMesh, instance_id: str, address: str, *, public: bool = True) -> AsyncIterator[None]:
    """Keep an instance registered while the block runs."""
    instance = Instance("followed", instance_id, (address,), grpc_services=(NAME,), public=public)
    registration = Registration(mesh.control, instance, ttl=5)
    task = asyncio.create_task(registration.run())
    try:
        await registration.registered()
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_instances_come_and_go(plain: RunningMesh) -> None:
    async with grpc.aio.insecure_channel(plain.public) as channel, server(b"one") as one, server(b"two") as two:
        call: Any = channel.unary_unary(METHOD)
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=NAME))

        async def becomes(status: int) -> None:
            while (await health.read()).status != status:
                pass

        async def answers() -> set[bytes]:
            return {await call(b"") for _ in range(6)}

        async def refusal() -> tuple[str, str]:
            try:
                await call(b"")
            except grpc.aio.AioRpcError as error:
                return error.code().name, dict(error.trailing_metadata()).get("mesh-reason", "")
            return "OK", ""

        assert (await health.read()).status == Status.SERVICE_UNKNOWN
        assert await refusal() == ("UNIMPLEMENTED", "no_route")
        async with registered(plain, "one", one):
            await becomes(Status.SERVING)
            assert await answers() == {b"one"}
            async with registered(plain, "two", two):
                while await answers() != {b"one", b"two"}:
                    pass
            while await answers() != {b"one"}:
                pass
        await becomes(Status.NOT_SERVING)
        # It is known and away, which is not the same as unknown.
        assert await refusal() == ("UNAVAILABLE", "no_endpoint")
        health.cancel()


async def test_the_edge_goes_on_with_what_it_knows_while_the_registry_is_away(plain: RunningMesh) -> None:
    control = psutil.Process(plain.pid("control"))
    async with grpc.aio.insecure_channel(plain.internal) as channel, server(b"here") as address:
        call: Any = channel.unary_unary(METHOD)
        async with registered(plain, "here", address, public=False):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    if await call(b"") == b"here":
                        break
            control.suspend()
            try:
                for _ in range(50):
                    assert await call(b"") == b"here"
            finally:
                control.resume()
            assert await call(b"") == b"here"
