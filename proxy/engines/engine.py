"""What an engine is to the rest of the edge."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

from mesh.tls.identity import Identity
from proxy.call.limits import Limits
from proxy.engines.options import Protection
from proxy.upstream.endpoint import Endpoint

PUBLIC = "public"
INTERNAL = "internal"
# Of one worker of an edge that has several: what the internal listener has, at an address of its own.
WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Listener:
    """One address that an edge listens on."""

    name: str
    # "HOST:PORT"; port 0 takes a free one.
    address: str
    # Adds what the edge answers itself to a grpc.aio server.
    add_local: Callable[[grpc.aio.Server], None]
    # Serve this listening socket instead of binding one; for engines that can (proxy/engines/factory.py).
    sock: socket.socket | None = None
    # Other processes of this edge bind the address too (SO_REUSEPORT).
    shared: bool = False
    # Speak TLS with these certificates, as they change.
    tls: Identity | None = None


class Engine(Protocol):
    """Moves the bytes of calls between listeners and endpoints."""

    name: str

    async def start(self, listeners: Sequence[Listener]) -> Mapping[str, str]:
        """Listen, and return the address of each listener, its port resolved.

        Raises:
            StartError: an address cannot be listened on.

        """
        ...

    def follow(self, limits: Limits, protection: Protection) -> Sequence[str]:
        """Take other bounds into force; returns those that cannot change while it runs, as "protection.NAME"."""
        ...

    def forget(self, endpoints: Iterable[Endpoint]) -> None:
        """Let go of endpoints that left the registry, once the calls on them have ended."""
        ...

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give those in flight `grace` seconds, then end them."""
        ...
