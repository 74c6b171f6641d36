"""grpc.health.v1 for the edge and for everything behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.discovery.model import Health
from proxy.admin.state import MeshState

NAME = "grpc.health.v1.Health"

_Response = health_pb2.HealthCheckResponse
_MAX_NAME = 256


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers for the edge ("") and, by gRPC service name or registered name, for the live instances behind it."""

    def __init__(self, state: MeshState, listener: str) -> None:
        self._state = state
        self._listener = listener

    async def Check(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        status = self._status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service[:_MAX_NAME]}")
        return _Response(status=status)

    async def List(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Answer for the edge and every gRPC service of the listener at once."""
        names = ("", *sorted(self._state.table(self._listener).routes))
        statuses = {name: _Response(status=self._status(name)) for name in names}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        last = None
        while not context.cancelled():
            change = self._state.next_change()
            status = self._status(request.service)
            if status is None:
                # The protocol's word for a watch: the service may still come.
                status = _Response.SERVICE_UNKNOWN
            if status != last:
                yield _Response(status=status)
                last = status
            await change.wait()

    def _status(self, name: str) -> int | None:
        health = self._state.health(self._listener, name)
        if health is None:
            return None
        return int(_Response.SERVING if health is Health.SERVING else _Response.NOT_SERVING)


def add_health(server: grpc.aio.Server, state: MeshState, listener: str) -> None:
    """Serve health on a listener."""
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(state, listener), server)
