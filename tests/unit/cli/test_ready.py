"""A mesh is ready when a call through any of its workers would succeed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh.api.edge.v1 import (
    EdgeServicer,
    ListUpstreamsResponse,
    Upstream,
    UpstreamEndpoint,
    add_EdgeServicer_to_server,
)
from mesh.api.registry.v1 import Instance, ListResponse, RegistryServicer, add_RegistryServicer_to_server
from mesh.cli.supervisor.ready import serving

PATIENCE = 30.0


class Worker(EdgeServicer):
    def __init__(self, *known: str) -> None:
        self.known = list(known)
        self.asked = 0
        self.asked_again = asyncio.Event()

    async def ListUpstreams(self, request: Any, context: Any) -> ListUpstreamsResponse:
        self.asked += 1
        if self.asked > 1:
            self.asked_again.set()
        endpoints = [UpstreamEndpoint(instance_id=name, health="SERVING") for name in self.known]
        return ListUpstreamsResponse(upstreams=[Upstream(service="shop", endpoints=endpoints)])


class Registry(RegistryServicer):
    def __init__(self) -> None:
        self.addresses: list[str] = []

    async def List(self, request: Any, context: Any) -> ListResponse:
        listed = [Instance(service="mesh-edge", instance_id=one, endpoints=[one]) for one in self.addresses]
        return ListResponse(instances=listed)


@contextlib.asynccontextmanager
async def serve(worker: Worker, registry: Registry) -> AsyncIterator[str]:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_EdgeServicer_to_server(worker, server)
    add_RegistryServicer_to_server(registry, server)
    status = health.aio.HealthServicer()
    await status.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_a_worker_that_does_not_know_all_instances_is_waited_for() -> None:
    registry = Registry()  # type: ignore[abstract]
    early = Worker("tea-1", "tea-2")  # type: ignore[abstract]
    late = Worker("tea-1")  # type: ignore[abstract]
    async with serve(early, registry) as first, serve(late, registry) as second, asyncio.timeout(PATIENCE):
        # One that is gone, and has not left the registry yet, is not waited for.
        registry.addresses = [first, second, "127.0.0.1:1"]
        ready = asyncio.create_task(serving(first, first, ["tea-1", "tea-2"], "", workers=2))
        await late.asked_again.wait()
        assert not ready.done()
        late.known.append("tea-2")
        await ready
