"""What became of an attempt, told from what grpc says of it.

grpc core does not say whether a status came from the peer or was made up here. It is told by its own words together
with the state of the channel, so that an upstream that merely passes on such words is not mistaken for a dead one.
"""

from __future__ import annotations

import grpc

from mesh.resilience import outcome
from proxy.upstream.retry import Failure

# Beginnings of core's own messages.
_NOT_CONNECTED = ("failed to connect to all addresses", "connections to all backends failing")
_REFUSED = ("Received RST_STREAM with error code 7", "RST_STREAM (Received RST_STREAM with error code 7")
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
    "Received RST_STREAM",
    "RST_STREAM (",
)


def classify(code: int, details: str, channel: grpc.aio.Channel) -> Failure | None:
    """Return how the connection failed an attempt, or None when the upstream answered."""
    if code != outcome.UNAVAILABLE:
        return None
    if details.startswith(_NOT_CONNECTED):
        ready = channel.get_state() is grpc.ChannelConnectivity.READY
        return None if ready else Failure.CONNECT
    if details.startswith(_REFUSED):
        return Failure.REFUSED
    return Failure.LOST if details.startswith(_LOST) else None
