"""What became of an attempt, told from what grpc says of it (`mesh.resilience.failure`)."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from mesh.resilience import outcome
from mesh.resilience.failure import connection_failure
from mesh.resilience.retry import Failure
from proxy.call.reason import Reason

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
    failure = connection_failure(code, details)
    if failure is Failure.CONNECT and channel.get_state() is grpc.ChannelConnectivity.READY:
        failure = None
    if failure is not None or code == outcome.UNAVAILABLE:
        return Verdict(code, failure)
    if code == outcome.RESOURCE_EXHAUSTED:
        found = [reason for words, reason in _TOO_LARGE.items() if details.startswith(words)]
        return Verdict(code, reason=found[0] if found else None)
    return Verdict(_HTTP.get(details, code) if code == outcome.UNKNOWN else code)
