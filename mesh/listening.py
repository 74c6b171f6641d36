"""Listening on an address, and one way to say that it cannot be had."""

from __future__ import annotations

import asyncio
import os
import socket

from mesh.errors import StartError


async def prove_free(address: str, option: str) -> None:
    """Raise the system's reason when "HOST:PORT" cannot be listened on: grpc says only that it failed.

    Raises:
        StartError: it names the address, the reason, and `option`, which sets it.

    """
    (await bound(address, option)).close()


async def bound(address: str, option: str) -> socket.socket:
    """Return a socket at "HOST:PORT" that does not listen yet: the address is taken, and who connects is refused.

    Raises:
        StartError: it names the address, the reason, and `option`, which sets it.

    """
    host, _, port = address.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, target = found[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(target)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise cannot_listen(address, option, error) from error
    return made


def cannot_listen(address: str, option: str, reason: OSError | str) -> StartError:
    """Return the error of an address that cannot be listened on."""
    if isinstance(reason, OSError):
        # The loop's own text repeats the address; what the system says is enough.
        system = reason.errno is not None and reason.errno > 0
        reason = os.strerror(reason.errno) if system and reason.errno else str(reason)
    return StartError(f"cannot listen on {address} ({reason}): free it, or choose another with {option} HOST:PORT")
