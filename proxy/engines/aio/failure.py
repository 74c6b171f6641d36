"""What became of an attempt, told from what grpc says of it.

grpc core does not say whether a status came from the peer or was made up here: it is told by core's own words, which
an upstream of our kind does not use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import grpc

from mesh.resilience import outcome
from proxy.call.reason import Reason
from proxy.upstream.retry import Failure

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
_TOO_LARGE = {
    "Stream removed (CLIENT: Received message larger than max": Reason.MESSAGE_TOO_LARGE,
    "Stream removed (received metadata size exceeds": Reason.HEADERS_TOO_LARGE,
}
# Where core's table of HTTP statuses differs from gRPC's.
_HTTP = {"Received http2 header with status: 431": outcome.INTERNAL}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The code that the client gets; how the connection failed the attempt; why the edge answers itself."""

    code: int
    failure: Failure | None = None
    reason: Reason | None = None


def classify(code: int, details: str, channel: grpc.aio.Channel) -> Verdict:
    """Return what a failed upstream call means; no failure and no reason when the upstream answered."""
    reset = _RESET(details)
    if reset:
        return Verdict(code, Failure.REFUSED if reset[1] == _REFUSED_STREAM else Failure.LOST)
    if code == outcome.UNAVAILABLE:
        return Verdict(code, _unavailable(details, channel))
    if code == outcome.RESOURCE_EXHAUSTED:
        found = [reason for words, reason in _TOO_LARGE.items() if details.startswith(words)]
        return Verdict(code, reason=found[0] if found else None)
    return Verdict(_HTTP.get(details, code) if code == outcome.UNKNOWN else code)


def _unavailable(details: str, channel: grpc.aio.Channel) -> Failure | None:
    if details.startswith(_NOT_CONNECTED):
        ready = channel.get_state() is grpc.ChannelConnectivity.READY
        return None if ready else Failure.CONNECT
    if details.startswith(_GOAWAY):
        return Failure.REFUSED
    return Failure.LOST if details.startswith(_LOST) else None
