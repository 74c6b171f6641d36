"""What OpenTelemetry's semantic conventions, old and new, call what we promote to columns. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

CORRELATION, METHOD, SERVICE, CODE, PEER, DATABASE = range(1, 7)

# Attributes that mean something to us.
ROLES = {
    **dict.fromkeys(
        (
            *("correlation_id", "correlation.id", "mesh.correlation_id", "x-correlation-id"),
            *("baggage.correlation_id", "baggage.correlation.id", "baggage.x-correlation-id"),
        ),
        CORRELATION,
    ),
    "rpc.method": METHOD,
    # Until 1.38; then the method has it.
    "rpc.service": SERVICE,
    "rpc.response.status_code": CODE,
    "rpc.status_code": CODE,
    "rpc.grpc.status_code": CODE,
    "rpc.connect_rpc.error_code": CODE,
    "peer.service": PEER,
    "service.peer.name": PEER,
    "db.system": DATABASE,
    "db.system.name": DATABASE,
}

# gRPC's status codes by their numbers.
CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


class Promoted(NamedTuple):
    """What is promoted, by the names of its columns; empty where unknown."""

    rpc_method: str
    rpc_status_code: str
    peer_service: str


def promoted(said: Iterable[tuple[int, str]]) -> Promoted:
    """Return what is promoted of attributes, given as roles and texts; of those with one role the first counts."""
    known: dict[int, str] = {}
    for role, text in said:
        known.setdefault(role, text)
    method, service = known.get(METHOD, "").removeprefix("/"), known.get(SERVICE, "")
    if method and service and "/" not in method:
        method = f"{service}/{method}"
    code = known.get(CODE, "")
    # A database sends no spans: it is known by its kind.
    return Promoted(method, code_name(code) if code else "", known.get(PEER) or known.get(DATABASE, ""))


def code_name(text: str) -> str:
    """Return the name of a gRPC code that was given as its number or name."""
    if text.isascii() and text.removeprefix("-").isdigit():
        number = int(text[:4])
        return CODES[number] if 0 <= number < len(CODES) else "UNKNOWN"
    return text.upper()
