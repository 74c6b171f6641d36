"""Why the edge answered a call itself: the closed list behind the trailer `mesh-reason`."""

from __future__ import annotations

import enum

from mesh.resilience import outcome

TRAILER = b"mesh-reason"


class Reason(enum.Enum):
    """A reason, the gRPC status code it is answered with, and whether the upstream is to blame."""

    NO_ROUTE = ("no_route", outcome.UNIMPLEMENTED)
    NO_ENDPOINT = ("no_endpoint", outcome.UNAVAILABLE)
    BREAKER_OPEN = ("breaker_open", outcome.UNAVAILABLE)
    UPSTREAM_CONNECT_FAILED = ("upstream_connect_failed", outcome.UNAVAILABLE)
    UPSTREAM_RESET = ("upstream_reset", outcome.UNAVAILABLE)
    DEADLINE_EXCEEDED = ("deadline_exceeded", outcome.DEADLINE_EXCEEDED)
    MALFORMED_REQUEST = ("malformed_request", outcome.INVALID_ARGUMENT)
    HEADERS_TOO_LARGE = ("headers_too_large", outcome.RESOURCE_EXHAUSTED)
    MESSAGE_TOO_LARGE = ("message_too_large", outcome.RESOURCE_EXHAUSTED)
    RATE_LIMITED = ("rate_limited", outcome.RESOURCE_EXHAUSTED)
    OVERLOADED = ("overloaded", outcome.UNAVAILABLE)
    # Answered with an HTTP status (405, 415) and no gRPC status: in the log and the metrics only.
    NO_GRPC = ("no_grpc", outcome.UNKNOWN)
    DRAINING = ("draining", outcome.UNAVAILABLE)
    INTERNAL = ("internal", outcome.INTERNAL)

    def __init__(self, text: str, code: int) -> None:
        self.text = text
        self.wire = text.encode()
        self.code = code


# Answers of the edge that are nevertheless the endpoint's doing.
UPSTREAM_REASONS = frozenset({Reason.UPSTREAM_CONNECT_FAILED, Reason.UPSTREAM_RESET, Reason.DEADLINE_EXCEEDED})


class Reject(Exception):  # noqa: N818 - it is an answer, not an error
    """The call is answered here and now, without an upstream.

    Raised by interceptors and by the dispatcher. `message` is one sentence for a person; `trailers` are sent with it.
    """

    def __init__(self, reason: Reason, message: str, trailers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.trailers = trailers
