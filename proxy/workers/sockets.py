"""The sockets of an edge with several workers: one for each worker and listener, all on one address.

The kernel spreads new connections over the listening sockets of an address (SO_REUSEPORT). The master keeps each of
them open beside the worker that serves it: a connection that waits in the queue of a socket whose worker has just
ended is taken by the next one instead of being refused.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from mesh.listening import cannot_listen

BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Shared:
    """One address that all workers serve."""

    # "HOST:PORT", its port resolved.
    address: str
    # One for each worker where workers take over sockets; else one that only keeps the port.
    sockets: tuple[socket.socket, ...]
    handed_over: bool

    def close(self) -> None:
        """Let the address go."""
        for one in self.sockets:
            one.close()


def share(address: str, listener: str, workers: int) -> Shared:
    """Return listening sockets, one for each of `workers`.

    Raises:
        StartError: the address cannot be listened on, or somebody else does.

    """
    host, first = _claim(address, listener)
    sockets = [first]
    try:
        for _ in range(workers - 1):
            sockets.append(another := _beside(first))
            another.listen(BACKLOG)
    except OSError as error:
        for one in sockets:
            one.close()
        raise cannot_listen(address, f"--{listener}", error) from error
    return Shared(f"{host}:{first.getsockname()[1]}", tuple(sockets), handed_over=True)


def keep(address: str, listener: str) -> Shared:
    """Return a socket that keeps the port and never listens, for workers that bind sockets of their own.

    Raises:
        StartError: the address cannot be listened on, or somebody else does.

    """
    host, first = _claim(address, listener)
    with first:
        kept = _beside(first)
    return Shared(f"{host}:{kept.getsockname()[1]}", (kept,), handed_over=False)


def _claim(address: str, listener: str) -> tuple[str, socket.socket]:
    """Listen on an address that nobody else listens on.

    SO_REUSEPORT comes after: with it from the start, another mesh of the same user would go unnoticed, and take half
    of the connections.
    """
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        claimed = socket.socket(family, kind, protocol)
    except OSError as error:
        raise cannot_listen(address, f"--{listener}", error) from error
    try:
        _prepare(claimed)
        claimed.bind(where)
        claimed.listen(BACKLOG)
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        claimed.close()
        raise cannot_listen(address, f"--{listener}", error) from error
    return host, claimed


def _beside(first: socket.socket) -> socket.socket:
    another = socket.socket(first.family, first.type, first.proto)
    try:
        _prepare(another)
        another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        another.bind(first.getsockname())
    except OSError:
        another.close()
        raise
    return another


def _prepare(made: socket.socket) -> None:
    # Connections of a mesh that has just ended may still be in TIME_WAIT.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
