"""What OpenTelemetry's semantic conventions, old and new, call what we promote to columns. Pure."""

from __future__ import annotations

from typing import Any

from services.sinks.otlp import label

CORRELATION, METHOD, SERVICE, CODE, OTHER_CODE, PEER, DATABASE = range(1, 8)

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
    "rpc.connect_rpc.error_code": OTHER_CODE,
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


class Roles:
    """What the attributes of one span say that we promote."""

    __slots__ = ("code", "correlation", "database", "method", "peer", "service")

    def __init__(self) -> None:
        self.correlation = self.method = self.service = self.code = self.peer = self.database = ""

    def add(self, role: int, value: Any) -> None:
        """Take the value of an attribute."""
        if role == METHOD:
            self.method = self.method or label(value).removeprefix("/")
        elif role == SERVICE:
            self.service = label(value)
        elif role in (CODE, OTHER_CODE):
            self.code = self.code or code_name(value)
        elif role == PEER:
            self.peer = self.peer or label(value)
        elif role == CORRELATION:
            self.correlation = self.correlation or label(value)
        elif role == DATABASE:
            self.database = self.database or label(value)

    def found(self) -> tuple[str, str, str, str]:
        """Return correlation id, method, status code and the service that was called; empty where unknown."""
        method = self.method
        if method and self.service and "/" not in method:
            method = f"{self.service}/{method}"
        # A database sends no spans: it is known by its kind.
        return self.correlation, method, self.code, self.peer or self.database


def code_name(value: Any) -> str:
    """Return the name of a gRPC code that was given as its number or name."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:3])
    if isinstance(value, int) and not isinstance(value, bool):
        return CODES[value] if 0 <= value < len(CODES) else "UNKNOWN"
    return label(value).upper()
