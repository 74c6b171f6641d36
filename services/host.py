"""One gRPC server that runs any subset of the control services, with health and reflection, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from mesh.listening import cannot_listen, prove_free
from mesh.tls.credentials import server_credentials
from mesh.tls.identity import Identity
from services.late import LateHandlers
from services.streams import StreamEnder

MAX_RECEIVE_BYTES = 4 << 20

_OPTIONS: tuple[tuple[str, int], ...] = (
    # Else a second process on the port would get half of the connections instead of an error.
    ("grpc.so_reuseport", 0),
    # A snapshot of a large fleet is one message.
    ("grpc.max_send_message_length", -1),
    # Watches and keepalives of a whole fleet may share the few connections of an edge.
    ("grpc.max_concurrent_streams", 1_000_000),
    # The core cancels calls at random once 1,000 have come that no handler has taken yet, as when a fleet hears of a
    # new release and all of it answers at once.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 1_000_000),
    # Find peers that died without a word, and let clients do the same every 10 s (half of it for jitter).
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class Hosted:
    """A gRPC service to be served."""

    # Its full name, such as "mesh.registry.v1.Registry".
    name: str
    add_to: Callable[[grpc.aio.Server], None]


class Host:
    """The server; it takes calls between `start` and `stop`. Services may be added while it serves."""

    def __init__(
        self,
        listen: str,
        services: Sequence[Hosted],
        *,
        option: str,
        max_receive_bytes: int = MAX_RECEIVE_BYTES,
        tls: Identity | None = None,
    ) -> None:
        """Serve at `listen`, which was given by `option` (for error messages), by `tls` where that is given."""
        self._tls = tls
        self._listen = listen
        self._option = option
        self._names: list[str] = []
        self._streams = StreamEnder()
        options = (*_OPTIONS, ("grpc.max_receive_message_length", max_receive_bytes))
        self._server = grpc.aio.server(interceptors=(self._streams,), options=options)
        # In the server's place, also for those that are there from the start.
        self._handlers: Any = LateHandlers()
        self._server.add_generic_rpc_handlers((self._handlers,))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._take(services)

    async def start(self) -> str:
        """Serve, and return the address with its real port.

        Raises:
            StartError: the address cannot be had.

        """
        host = self._listen.rpartition(":")[0]
        await prove_free(self._listen, self._option)
        try:
            if self._tls is None:
                bound = self._server.add_insecure_port(self._listen)
            else:
                bound = self._server.add_secure_port(self._listen, server_credentials(self._tls))
        except RuntimeError as error:
            raise cannot_listen(self._listen, self._option, str(error)) from error
        await self._server.start()
        await self._tell(self._names, health_pb2.HealthCheckResponse.SERVING)
        return f"{host}:{bound}"

    async def expect(self, names: Iterable[str], why: str) -> None:
        """Say of services that are to be added that they are not served yet: in their health, and to their callers."""
        names = list(names)
        self._handlers.expect(names, why)
        await self._tell(names, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def add(self, services: Sequence[Hosted]) -> None:
        """Serve more, from now on."""
        self._take(services)
        await self._tell([hosted.name for hosted in services], health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace: float) -> None:
        """Take no more calls, end the streams, and give unary calls `grace` seconds to finish."""
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.ensure_future(self._server.stop(grace))
        self._streams.end()
        await stopping

    def _take(self, services: Sequence[Hosted]) -> None:
        for hosted in services:
            hosted.add_to(self._handlers)
            self._names.append(hosted.name)
        reflected = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        servicer: Any = reflection.aio.ReflectionServicer(reflected)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, self._handlers)

    async def _tell(self, names: Iterable[str], status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for name in names:
            await self._health.set(name, status)
