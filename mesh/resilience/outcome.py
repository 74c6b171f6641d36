"""Which ends of a call speak against the endpoint that served it."""

from __future__ import annotations

OK = 0
CANCELLED = 1
UNKNOWN = 2
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14
DATA_LOSS = 15
UNAUTHENTICATED = 16

CODE_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)

# A client's mistake (NOT_FOUND, INVALID_ARGUMENT, ...) says nothing about the endpoint's fitness.
_FAILURES = frozenset({UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS})

# What a server or the way to it did wrong; all else is the client's.
_OF_SERVERS = _FAILURES | {UNIMPLEMENTED}


def is_failure(code: int) -> bool:
    """Tell whether a gRPC status code counts against the upstream."""
    return code in _FAILURES


def has_server_failed(code: int) -> bool:
    """Tell whether a gRPC status code makes a server's span an error, as OpenTelemetry's conventions have it."""
    return code in _OF_SERVERS


def code_name(code: int) -> str:
    """Return the name of a gRPC status code, the number itself when there is none."""
    return CODE_NAMES[code] if 0 <= code < len(CODE_NAMES) else str(code)
