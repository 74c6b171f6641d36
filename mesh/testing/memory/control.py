"""All of the control services in memory, at one address."""

from __future__ import annotations

import asyncio
from typing import Self

import grpc

from mesh.api.config.v1 import add_ConfigServicer_to_server
from mesh.api.logsink.v1 import add_LogSinkServicer_to_server
from mesh.api.metrics.v1 import add_MetricsServicer_to_server
from mesh.api.registry.v1 import add_RegistryServicer_to_server
from mesh.api.tracesink.v1 import add_TraceSinkServicer_to_server
from mesh.clock import Clock, SystemClock
from mesh.testing.memory.config import MemoryConfig
from mesh.testing.memory.registry import MemoryRegistry
from mesh.testing.memory.sinks import MemoryLogSink, MemoryMetrics, MemoryTraceSink

# How often leases are looked at.
LOOK_SECONDS = 0.1


class MemoryControl:
    """Use as `async with MemoryControl() as control:`; `MESH_CONTROL` is its `address`."""

    def __init__(self, clock: Clock | None = None) -> None:
        """Let leases end by `clock`."""
        # Generated servicers are abstract for type checkers; what these do not have is answered with UNIMPLEMENTED.
        self.registry = MemoryRegistry(clock or SystemClock())  # type: ignore[abstract]
        self.config = MemoryConfig()  # type: ignore[abstract]
        self.logs = MemoryLogSink()  # type: ignore[abstract]
        self.traces = MemoryTraceSink()  # type: ignore[abstract]
        self._server: grpc.aio.Server | None = None
        self._expiring: asyncio.Task[None] | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """Where it is reached, "HOST:PORT"."""
        return f"127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        server = self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            )
        )
        add_RegistryServicer_to_server(self.registry, server)
        add_ConfigServicer_to_server(self.config, server)
        add_LogSinkServicer_to_server(self.logs, server)
        add_TraceSinkServicer_to_server(self.traces, server)
        add_MetricsServicer_to_server(MemoryMetrics(), server)  # type: ignore[abstract]
        self._port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._expiring = asyncio.create_task(self._expire())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._expiring is not None:
            self._expiring.cancel()
            await asyncio.gather(self._expiring, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(None)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.registry.expire()
