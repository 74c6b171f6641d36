"""Whether a mesh that was started is ready: asked of the edge, as its users will ask it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.api.edge.v1 import EdgeStub, ListUpstreamsRequest
from mesh.api.registry.v1 import ListRequest, RegistryStub
from mesh.edge import EDGE_SERVICE
from mesh.errors import StartError

if TYPE_CHECKING:
    from mesh.api.edge.v1.edge_pb2_grpc import EdgeAsyncStub
    from mesh.api.registry.v1.registry_pb2_grpc import RegistryAsyncStub

TIMEOUT = 30.0
# The edge has no method that waits for its upstreams; it hears of a change within milliseconds.
_ASK_EVERY = 0.05


async def serving(
    public: str, internal: str, instances: Collection[str], public_service: str, *, workers: int = 1
) -> None:
    """Return when the edge at `public` serves `public_service` ("" is the edge) and knows all `instances` as serving.

    With several `workers`, all of them do: a call may come to any.

    Raises:
        StartError: that did not come true in time.

    """
    missing = set(instances)
    try:
        async with asyncio.timeout(TIMEOUT):
            await _all_known(internal, missing)
            if workers > 1 and instances:
                missing = {"every instance by each of its workers"}
                await _by_all(internal, frozenset(instances), workers)
                missing = set()
            async with grpc.aio.insecure_channel(dialable(public)) as channel:
                await _healthy(health_pb2_grpc.HealthStub(channel), public_service)
    except TimeoutError as error:
        what = f"has not seen {', '.join(sorted(missing))}" if missing else f"at {public} does not serve"
        raise StartError(f"the edge {what} within {TIMEOUT:g} s") from error


async def _all_known(address: str, missing: set[str]) -> None:
    """Return when the edge, or the worker, at `address` knows the `missing` as serving; takes them out meanwhile."""
    async with grpc.aio.insecure_channel(dialable(address)) as channel:
        edge: EdgeAsyncStub = EdgeStub(channel)
        while True:
            missing -= await _known(edge)
            if not missing:
                return
            await asyncio.sleep(_ASK_EVERY)


async def _by_all(internal: str, instances: frozenset[str], workers: int) -> None:
    """Return when so many workers know all `instances`. Each is an instance of the edge, with an address of its own.

    The registry may still have those of an edge that was killed a moment ago: nobody waits for them.
    """
    asked: dict[str, asyncio.Task[None]] = {}
    try:
        async with grpc.aio.insecure_channel(dialable(internal)) as channel:
            registry: RegistryAsyncStub = RegistryStub(channel)
            while sum(task.done() for task in asked.values()) < workers:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    listed = await registry.List(ListRequest(service=EDGE_SERVICE), wait_for_ready=True)
                    for worker in listed.instances:
                        address = worker.endpoints[0]
                        if address not in asked:
                            asked[address] = asyncio.create_task(_all_known(address, set(instances)))
                await asyncio.sleep(_ASK_EVERY)
    finally:
        for task in asked.values():
            task.cancel()
        await asyncio.gather(*asked.values(), return_exceptions=True)


async def _known(edge: EdgeAsyncStub) -> set[str]:
    """Return the instances that the edge knows as serving."""
    try:
        known = await edge.ListUpstreams(ListUpstreamsRequest(), wait_for_ready=True)
    except grpc.aio.AioRpcError:
        return set()
    return {
        endpoint.instance_id
        for upstream in known.upstreams
        for endpoint in upstream.endpoints
        if endpoint.health == "SERVING"
    }


async def _healthy(health: health_pb2_grpc.HealthStub, service: str) -> None:
    """Return when `service` is serving."""
    while True:
        try:
            watch = health.Watch(health_pb2.HealthCheckRequest(service=service), wait_for_ready=True)
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return
        except grpc.aio.AioRpcError:
            await asyncio.sleep(_ASK_EVERY)


async def serving_all(address: str, services: Collection[str]) -> None:
    """Return when the server at `address` serves all gRPC `services`.

    Raises:
        StartError: one of them is not served in time.

    """
    async with grpc.aio.insecure_channel(dialable(address)) as channel:
        for service in services:
            try:
                async with asyncio.timeout(TIMEOUT):
                    await _healthy(health_pb2_grpc.HealthStub(channel), service)
            except TimeoutError as error:
                raise StartError(f"the control services do not serve {service} within {TIMEOUT:g} s") from error


def dialable(address: str) -> str:
    """Return where a listener can be reached from this machine: one on all addresses is at the loopback too."""
    host, _, port = address.rpartition(":")
    return {"0.0.0.0": f"127.0.0.1:{port}", "[::]": f"[::1]:{port}"}.get(host, address)  # noqa: S104 - compared only
