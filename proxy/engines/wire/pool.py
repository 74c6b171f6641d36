"""The connections of one endpoint, and the calls that wait for one. Decisions first, I/O after."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mesh.tls.material import ALPN
from proxy.engines.options import PoolOptions
from proxy.engines.wire import endings
from proxy.engines.wire.exchange import Exchange
from proxy.engines.wire.upstream import Upstream
from proxy.upstream.retry import Failure

if TYPE_CHECKING:
    from proxy.engines.wire.engine import WireEngine

UNIX = "unix:"


class Pool:
    """The connections of one endpoint."""

    __slots__ = (
        "_address",
        "_backoff",
        "_closed",
        "_connecting",
        "_engine",
        "_options",
        "_server_name",
        "_why",
        "connections",
        "retry_at",
        "waiting",
    )

    def __init__(self, engine: WireEngine, address: str, options: PoolOptions, server_name: str | None = None) -> None:
        """Make it; `server_name` is what the endpoint has to prove by TLS, None is plaintext."""
        self._engine = engine
        self._address = address
        self._options = options
        self._server_name = server_name
        self.connections: list[Upstream] = []
        # In order of arrival.
        self.waiting: dict[Exchange, None] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False
        # After a failed connect: when the next one may be tried, the wait after that, and what went wrong.
        self.retry_at = 0.0
        self._backoff = 0.0
        self._why = ""

    def submit(self, exchange: Exchange) -> None:
        """Give a call a stream, now or when there is one."""
        for connection in self.connections:
            if len(connection.streams) < connection.room:
                exchange.attach(connection)
                return
        if self._may_connect():
            if self._engine.dispatcher.now() < self.retry_at:
                # It was away a moment ago: better to try elsewhere than to wait.
                endings.attempt_failed(exchange, Failure.CONNECT, self._why)
                return
            self._connect()
        if len(self.waiting) >= self._options.max_waiting:
            endings.overloaded(
                exchange, f"{len(self.waiting)} calls wait for a connection to {self._address}: retry later"
            )
            return
        exchange.pool = self
        self.waiting[exchange] = None

    def serve(self) -> None:
        """Give waiting calls the streams that there are."""
        waiting = self.waiting
        for connection in tuple(self.connections):
            while waiting and connection.may_open():
                exchange = next(iter(waiting))
                del waiting[exchange]
                exchange.attach(connection)
        if waiting and self._may_connect():
            self._connect()

    def lost(self, connection: Upstream) -> None:
        """Take no further calls to a connection."""
        if connection in self.connections:
            self.connections.remove(connection)
            if self.waiting and self._may_connect():
                self._connect()

    def forget(self) -> None:
        """Close the connections once their calls have ended."""
        self._closed = True
        for connection in tuple(self.connections):
            connection.go()

    def close(self) -> None:
        """Close the connections, and have nobody wait."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        for connection in tuple(self.connections):
            connection.go()

    def sweep(self, now: float) -> None:
        """Close what was not used for long."""
        for connection in tuple(self.connections):
            if not connection.streams and now - connection.idle_since > self._options.idle_seconds:
                connection.go()

    def _may_connect(self) -> bool:
        return self._connecting is None and len(self.connections) < self._options.max_connections

    def _connect(self) -> None:
        self._connecting = self._engine.own(self._connected())

    async def _connected(self) -> None:
        connection = Upstream(self._engine, self)
        try:
            async with asyncio.timeout(self._options.connect_seconds):
                await self._open(connection)
                await connection.ready
        except (OSError, TimeoutError) as error:
            connection.abort()
            self._connecting = None
            self._failed(str(error) or "the connection timed out")
            return
        except asyncio.CancelledError:
            connection.abort()
            self._connecting = None
            raise
        self._connecting = None
        self._backoff = self.retry_at = 0.0
        if connection.dead or connection.going:
            self._failed("it closed the connection")
            return
        self.connections.append(connection)
        self.serve()
        if self._closed:
            connection.go()

    async def _open(self, connection: Upstream) -> None:
        loop, address, name = self._engine.loop, self._address, self._server_name
        # Looked up each time: certificates change.
        context = None if name is None else self._engine.upstream_tls.material.context
        transport: asyncio.Transport
        if address.startswith(UNIX):
            path = address.removeprefix(UNIX)
            transport, _ = await loop.create_unix_connection(
                connection.as_protocol, path, ssl=context, server_hostname=name
            )
        else:
            host, _, port = address.rpartition(":")
            transport, _ = await loop.create_connection(
                connection.as_protocol, host.strip("[]"), int(port), ssl=context, server_hostname=name
            )
        secured = transport.get_extra_info("ssl_object")
        if secured is not None and secured.selected_alpn_protocol() != ALPN:
            raise ConnectionError("it speaks TLS, but not HTTP/2 (ALPN h2)")

    def _failed(self, why: str) -> None:
        options = self._options
        self._backoff = min(2 * self._backoff or options.backoff_seconds, options.max_backoff_seconds)
        self.retry_at = self._engine.dispatcher.now() + self._backoff
        self._why = why
        if self.connections:
            return  # those that wait for room go on waiting for the others
        waiting, self.waiting = self.waiting, {}
        for exchange in waiting:
            exchange.pool = None
            endings.attempt_failed(exchange, Failure.CONNECT, why)
