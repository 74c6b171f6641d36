"""Whether a mesh that was started is ready: asked of the edge, as its users will ask it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.api.edge.v1 import EdgeStub, ListUpstreamsRequest
from mesh.errors import StartError

if TYPE_CHECKING:
    from mesh.api.edge.v1.edge_pb2_grpc import EdgeAsyncStub

TIMEOUT = 30.0
# The edge has no method that waits for its upstreams; it hears of a change within milliseconds.
_ASK_EVERY = 0.05


async def serving(public: str, internal: str, instances: Collection[str], public_service: str) -> None:
    """Return when the edge at `public` serves `public_service` ("" is the edge) and knows all `instances` as serving.

    Raises:
        StartError: that did not come true in time.

    """
    missing = set(instances)
    try:
        async with asyncio.timeout(TIMEOUT):
            async with grpc.aio.insecure_channel(dialable(internal)) as channel:
                edge: EdgeAsyncStub = EdgeStub(channel)
                while True:
                    missing -= await _known(edge)
                    if not missing:
                        break
                    await asyncio.sleep(_ASK_EVERY)
            async with grpc.aio.insecure_channel(dialable(public)) as channel:
                await _healthy(health_pb2_grpc.HealthStub(channel), public_service)
    except TimeoutError as error:
        what = f"has not seen {', '.join(sorted(missing))}" if missing else f"at {public} does not serve"
        raise StartError(f"the edge {what} within {TIMEOUT:g} s") from error


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


def dialable(address: str) -> str:
    """Return where a listener can be reached from this machine: one on all addresses is at the loopback too."""
    host, _, port = address.rpartition(":")
    return {"0.0.0.0": f"127.0.0.1:{port}", "[::]": f"[::1]:{port}"}.get(host, address)  # noqa: S104 - compared only
