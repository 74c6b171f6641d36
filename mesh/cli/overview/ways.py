"""Asks every edge for the ways that calls take."""

from __future__ import annotations

import asyncio

import grpc

from mesh.api.edge.v1 import EdgeStub, ListRoutesRequest, ListRoutesResponse
from mesh.cli.overview.collect import EDGE_TIMEOUT, listed
from mesh.cli.supervisor.ready import dialable
from mesh.edge import EDGE_SERVICE


async def ask_edges(control: str, grpc_service: str) -> list[tuple[str, ListRoutesResponse | str]]:
    """Return the routes of each edge, or why it does not tell, by its instance id.

    Raises:
        MeshError: the registry does not answer, or refuses.

    """
    _, _, instances = await listed(control, EDGE_SERVICE)

    async def ask(address: str) -> ListRoutesResponse | str:
        async with grpc.aio.insecure_channel(dialable(address)) as channel:
            try:
                request = ListRoutesRequest(grpc_service=grpc_service)
                reply: ListRoutesResponse = await EdgeStub(channel).ListRoutes(request, timeout=EDGE_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                return error.code().name
        return reply

    known = sorted((one.instance_id, one.endpoints[0]) for one in instances)
    replies = await asyncio.gather(*(ask(address) for _, address in known))
    return [(instance_id, reply) for (instance_id, _), reply in zip(known, replies, strict=True)]
