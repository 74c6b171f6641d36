"""What became of an attempt made with grpc core, told from what core says of it. Pure.

grpc core does not say whether a status came from the peer or was made up here: it is told by core's own words, which
an upstream of our kind does not use.
"""

from __future__ import annotations

import re

from mesh.resilience import outcome
from mesh.resilience.retry import Failure

# Beginnings of core's own messages.
_NOT_CONNECTED = ("failed to connect to all addresses", "connections to all backends failing")
_LOST = (
    "Socket closed",
    "Stream removed",
    "Transport closed",
    "Endpoint closing",
    "Endpoint closed",
    "End of file",
    "End of TCP stream",
    "ping timeout",
    "keepalive",
    "GOAWAY received",
    "recvmsg:",
    "sendmsg:",
    "Connection reset",
    "Broken pipe",
)
_RESET = re.compile(r"(?:Stream removed )?\(?(?:RST_STREAM )?\(?Received RST_STREAM with error code (\d+)").match
_REFUSED_STREAM = "7"
# Core says so only of streams above the last one that the peer handled; a later loss of the connection is named first.
_GOAWAY = ("Stream removed (GOAWAY received", "GOAWAY received")


def connection_failure(code: int, details: str) -> Failure | None:
    """Return how the connection failed an attempt that ended so; None when the upstream answered.

    CONNECT is to be believed only of a channel that is not connected: an upstream may say of its own what core says.
    """
    if code != outcome.OK and (reset := _RESET(details)):
        return Failure.REFUSED if reset[1] == _REFUSED_STREAM else Failure.LOST
    if code != outcome.UNAVAILABLE:
        return None
    if details.startswith(_NOT_CONNECTED):
        return Failure.CONNECT
    if details.startswith(_GOAWAY):
        return Failure.REFUSED
    return Failure.LOST if details.startswith(_LOST) else None
