"""Asks the registry for the instances and every edge for what it thinks of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from mesh.api.edge.v1 import (
    EdgeStub,
    GetInfoRequest,
    GetInfoResponse,
    ListUpstreamsRequest,
    UpstreamEndpoint,
)
from mesh.api.registry.v1 import Instance, ListRequest, RegistryStub, Service
from mesh.cli.supervisor.ready import dialable
from mesh.discovery.channel import control_channel, instance_channel, mesh_error
from mesh.edge import EDGE_SERVICE
from mesh.errors import UnreachableError

REGISTRY_TIMEOUT = 5.0
EDGE_TIMEOUT = 3.0


@dataclass(frozen=True)
class EdgeView:
    """One edge: what it says of itself, and by service, instance and address what it says of the endpoints."""

    instance_id: str
    address: str
    info: GetInfoResponse | None = None
    endpoints: dict[tuple[str, str, str], UpstreamEndpoint] = field(default_factory=dict)
    # Why it said nothing.
    error: str = ""


@dataclass(frozen=True)
class Overview:
    """Everything, at one moment."""

    revision: int
    services: Sequence[Service]
    instances: Sequence[Instance]
    edges: Sequence[EdgeView]


async def collect(control: str) -> Overview:
    """Return what the registry at `control` and all its edges know.

    Raises:
        MeshError: the registry does not answer, or refuses.

    """
    revision, services, instances = await listed(control)
    known = sorted((one for one in instances if one.service == EDGE_SERVICE), key=lambda one: one.instance_id)
    edges = await asyncio.gather(*map(_edge, known))
    return Overview(revision, services, instances, edges)


async def listed(control: str, service: str = "") -> tuple[int, list[Service], list[Instance]]:
    """Return the revision, the services and the instances of the registry, those of `service` if it is given.

    Raises:
        MeshError: the registry does not answer, or refuses.

    """
    *others, last = control.split(",")
    for address in others:
        with contextlib.suppress(UnreachableError):
            return await _listed_at(address, service)
    return await _listed_at(last, service)


async def _listed_at(control: str, service: str) -> tuple[int, list[Service], list[Instance]]:
    services: list[Service] = []
    instances: list[Instance] = []
    request = ListRequest(service=service)
    async with control_channel(control) as channel:
        registry = RegistryStub(channel)
        try:
            while True:
                page = await registry.List(request, timeout=REGISTRY_TIMEOUT)
                services += page.services
                instances += page.instances
                if not page.next_page_token:
                    return page.header.revision, services, instances
                request.page_token = page.next_page_token
        except grpc.aio.AioRpcError as error:
            raise mesh_error(error, control) from error


async def _edge(instance: Instance) -> EdgeView:
    instance_id, address = instance.instance_id, instance.endpoints[0]
    async with instance_channel(dialable(address), instance.metadata) as channel:
        edge = EdgeStub(channel)
        try:
            info = await edge.GetInfo(GetInfoRequest(), timeout=EDGE_TIMEOUT)
            listed = await edge.ListUpstreams(ListUpstreamsRequest(), timeout=EDGE_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return EdgeView(instance_id, address, error=error.code().name)
    endpoints = {
        (upstream.service, endpoint.instance_id, endpoint.address): endpoint
        for upstream in listed.upstreams
        for endpoint in upstream.endpoints
    }
    return EdgeView(instance_id, address, info, endpoints)
