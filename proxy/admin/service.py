"""mesh.edge.v1.Edge: what this edge runs, and what it thinks of the endpoints behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import grpc

import mesh
from mesh.api.edge.v1 import (
    BREAKER_STATE_CLOSED,
    BREAKER_STATE_HALF_OPEN,
    BREAKER_STATE_OPEN,
    Configuration,
    EdgeServicer,
    GetInfoRequest,
    GetInfoResponse,
    ListRoutesRequest,
    ListRoutesResponse,
    ListUpstreamsRequest,
    ListUpstreamsResponse,
    Route,
    Upstream,
    UpstreamEndpoint,
    Way,
    add_EdgeServicer_to_server,
)
from mesh.clock import Clock
from mesh.discovery.model import Service
from mesh.resilience.breaker import Breaker, BreakerState
from proxy.admin.state import MeshState
from proxy.engines.engine import INTERNAL, PUBLIC
from proxy.interceptors.metrics import Metrics
from proxy.routing.describe import Described, describe, warnings
from proxy.upstream.endpoint import Endpoint

NAME = "mesh.edge.v1.Edge"

_BREAKER = {
    BreakerState.CLOSED: BREAKER_STATE_CLOSED,
    BreakerState.HALF_OPEN: BREAKER_STATE_HALF_OPEN,
    BreakerState.OPEN: BREAKER_STATE_OPEN,
}


class KnownConfiguration(Protocol):
    """What is known of the configuration; see `proxy.configuration.Configuration`."""

    @property
    def environment(self) -> str: ...
    @property
    def release(self) -> int: ...
    @property
    def checksum(self) -> str: ...
    @property
    def connected(self) -> bool: ...
    @property
    def rejected(self) -> int: ...
    @property
    def error(self) -> str: ...
    def release_at(self, moment: float) -> int: ...


@dataclass
class EdgeInfo:
    """What does not change while an edge runs, and a look at what does."""

    instance_id: str
    engine: str
    interceptors: tuple[str, ...]
    clock: Clock
    registry_connected: Callable[[], bool]
    # 1 while what is in force comes from the disk, and how many instances are in force that the registry does not know.
    registry_doubts: Callable[[], tuple[int, int]] = lambda: (0, 0)
    started_at: float = 0.0
    addresses: Mapping[str, str] | None = None
    # What it has of the application mesh.edge; None where it does not ask.
    configuration: KnownConfiguration | None = None


class EdgeAdmin(EdgeServicer):
    """Serves the edge's own view."""

    def __init__(self, state: MeshState, metrics: Metrics, info: EdgeInfo) -> None:
        self._state = state
        self._metrics = metrics
        self._info = info

    async def GetInfo(
        self, request: GetInfoRequest, context: grpc.aio.ServicerContext[GetInfoRequest, GetInfoResponse]
    ) -> GetInfoResponse:
        info, addresses = self._info, self._info.addresses or {}
        return GetInfoResponse(
            instance_id=info.instance_id,
            version=mesh.__version__,
            engine=info.engine,
            public_address=addresses.get("public", ""),
            internal_address=addresses.get("internal", ""),
            admin_address=addresses.get("admin", ""),
            uptime_seconds=info.clock.now() - info.started_at,
            registry_cluster_id=self._state.directory.cluster_id,
            registry_revision=self._state.directory.revision,
            registry_connected=info.registry_connected(),
            interceptors=info.interceptors,
            calls_in_flight=self._metrics.calls_in_flight,
            calls_total=self._metrics.calls_total,
            configuration=self._configuration(),
        )

    async def ListUpstreams(
        self,
        request: ListUpstreamsRequest,
        context: grpc.aio.ServicerContext[ListUpstreamsRequest, ListUpstreamsResponse],
    ) -> ListUpstreamsResponse:
        services = self._state.directory.services
        return ListUpstreamsResponse(
            upstreams=[self._upstream(services[name]) for name in sorted(services) if request.service in ("", name)],
            registry_revision=self._state.directory.revision,
            registry_connected=self._info.registry_connected(),
        )

    async def ListRoutes(
        self, request: ListRoutesRequest, context: grpc.aio.ServicerContext[ListRoutesRequest, ListRoutesResponse]
    ) -> ListRoutesResponse:
        state = self._state
        routes = [
            _route(one)
            for listener in (INTERNAL, PUBLIC)
            for one in describe(state.document, listener, state.table(listener), state.directory, state.pool)
            if request.grpc_service in ("", one.grpc_service)
        ]
        return ListRoutesResponse(configuration=self._configuration(), routes=routes)

    def _configuration(self) -> Configuration:
        known, state = self._info.configuration, self._state
        found = Configuration(warnings=warnings(state.document, state.directory))
        if known is not None:
            found.environment, found.release, found.checksum = known.environment, known.release, known.checksum
            found.connected = known.connected
            if known.rejected:
                found.rejected_release, found.error = known.rejected, known.error
        return found

    def _upstream(self, service: Service) -> Upstream:
        routes = self._state.table(INTERNAL).routes
        endpoints = self._state.pool.of(service.name)
        declared = {name for endpoint in endpoints for name in endpoint.instance.grpc_services}
        declared.update(service.grpc_services)
        return Upstream(
            service=service.name,
            public=service.public,
            grpc_services=sorted(declared),
            shadowed_grpc_services=sorted(
                name for name in declared if name in routes and routes[name].service != service.name
            ),
            endpoints=[self._endpoint(endpoint) for endpoint in endpoints],
        )

    def _endpoint(self, endpoint: Endpoint) -> UpstreamEndpoint:
        now = self._info.clock.now()
        breaker, instance = endpoint.breaker, endpoint.instance
        calls, failures, slow = _window(breaker, now)
        outlier = endpoint.outlier
        return UpstreamEndpoint(
            instance_id=endpoint.instance_id,
            address=endpoint.address,
            version=instance.version,
            zone=instance.zone,
            health=instance.health.name,
            breaker=_BREAKER[breaker.state],
            breaker_retry_seconds=breaker.retry_after(now),
            window_calls=calls,
            failure_rate=failures / calls if calls else 0.0,
            slow_call_rate=slow / calls if calls else 0.0,
            calls_in_flight=endpoint.in_flight,
            calls_total=endpoint.calls,
            failures_total=endpoint.failures,
            weight=instance.weight,
            ejected_seconds=max(0.0, outlier.ejected_until - now) if outlier is not None else 0.0,
            ejections_total=outlier.ejections if outlier is not None else 0,
        )


def _route(one: Described) -> Route:
    ways = [
        Way(
            origin=way.origin,
            name=way.name,
            match=way.match,
            service=way.service,
            labels=dict(way.labels),
            weight=way.weight,
            endpoints=way.endpoints,
            policies=way.policies,
            mirror=way.mirror,
        )
        for way in one.ways
    ]
    return Route(listener=one.listener, grpc_service=one.grpc_service, method=one.method, ways=ways)


def _window(breaker: Breaker, now: float) -> tuple[int, int, int]:
    window = breaker.window
    if breaker.state is BreakerState.CLOSED:
        window.advance(now)
    return window.calls, window.failures, window.slow


def add_edge_admin(server: grpc.aio.Server, state: MeshState, metrics: Metrics, info: EdgeInfo) -> None:
    """Serve the edge's view on a listener."""
    add_EdgeServicer_to_server(EdgeAdmin(state, metrics, info), server)
