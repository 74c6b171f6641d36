"""Where clients come in: the socket of one listener, and the server that takes connections from it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from mesh.listening import cannot_listen
from mesh.tls.material import Material
from proxy.engines.engine import Listener
from proxy.engines.wire.session import Session

if TYPE_CHECKING:
    from proxy.engines.wire.engine import WireEngine

_BACKLOG = 1024
# How long the end of a TLS connection may take.
_TLS_SHUTDOWN_SECONDS = 5.0


class Door:
    """Takes the connections of one listener."""

    def __init__(self, engine: WireEngine, listener: Listener) -> None:
        self._engine = engine
        self._listener = listener
        self._server: asyncio.Server | None = None
        # Kept beside the server where that is replaced when certificates are.
        self._socket: socket.socket | None = None
        self._closed = False

    @property
    def tls(self) -> bool:
        return self._listener.tls is not None

    async def open(self) -> str:
        """Listen; returns the address, its port resolved. Raises StartError."""
        listener = self._listener
        host, _, port = listener.address.rpartition(":")
        try:
            if listener.tls is not None:
                self._socket = listener.sock or await self._bind(host.strip("[]"), int(port))
                await self._serve_tls(listener.tls.material.context)
                listener.tls.on_change.append(self._renew)
            elif listener.sock is not None:
                self._server = await self._engine.loop.create_server(
                    self._factory(), sock=listener.sock, backlog=_BACKLOG
                )
            else:
                self._server = await self._engine.loop.create_server(
                    self._factory(), host.strip("[]"), int(port), backlog=_BACKLOG, reuse_port=listener.shared
                )
        except OSError as error:
            self.close()
            raise cannot_listen(listener.address, f"--{listener.name}", error) from error
        assert self._server is not None
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Take no further connection."""
        self._closed = True
        tls = self._listener.tls
        if tls is not None and self._renew in tls.on_change:
            tls.on_change.remove(self._renew)
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.close()

    def _factory(self) -> Callable[[], asyncio.Protocol]:
        engine, name = self._engine, self._listener.name
        return lambda: Session(engine, name).as_protocol()

    def _renew(self, material: Material) -> None:
        self._engine.own(self._serve_tls(material.context))

    async def _serve_tls(self, context: ssl.SSLContext) -> None:
        """Serve with the certificates of `context`; connections that there are go on with theirs.

        A server on a copy of the socket, then the old one closed: nobody is refused in between, and no session that
        was begun with the old certificates can be resumed.
        """
        assert self._socket is not None
        server = await self._engine.loop.create_server(
            self._factory(),
            sock=self._socket.dup(),
            backlog=_BACKLOG,
            ssl=context,
            ssl_handshake_timeout=self._engine.protection.handshake_seconds,
            ssl_shutdown_timeout=_TLS_SHUTDOWN_SECONDS,
        )
        if self._closed:
            server.close()
            return
        old, self._server = self._server, server
        if old is not None:
            old.close()

    async def _bind(self, host: str, port: int) -> socket.socket:
        found = await self._engine.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, target = found[0]
        return socket.create_server(target[:2], family=family, backlog=_BACKLOG, reuse_port=self._listener.shared)
