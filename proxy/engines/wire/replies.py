"""Statuses: read from what an upstream sent, made up where it sent none, and written for a client. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.resilience import outcome
from proxy.call.call import Call
from proxy.call.reason import TRAILER
from proxy.engines.wire.h2 import CANCEL, ENHANCE_YOUR_CALM, REFUSED_STREAM, Header

STATUS_200 = (b":status", b"200")
CONTENT_TYPE = (b"content-type", b"application/grpc")

GRPC_STATUS = b"grpc-status"
GRPC_MESSAGE = b"grpc-message"

_INADEQUATE_SECURITY = 0x0C

# What gRPC's PROTOCOL-HTTP2.md says of RST_STREAM; all others are INTERNAL.
_RESET_STATUS = {
    REFUSED_STREAM: outcome.UNAVAILABLE,
    CANCEL: outcome.CANCELLED,
    ENHANCE_YOUR_CALM: outcome.RESOURCE_EXHAUSTED,
    _INADEQUATE_SECURITY: outcome.PERMISSION_DENIED,
}

_RESET_NAMES = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)

# What gRPC's http-grpc-status-mapping.md says; all others are UNKNOWN.
_HTTP_STATUS = {
    b"400": outcome.INTERNAL,
    b"401": outcome.UNAUTHENTICATED,
    b"403": outcome.PERMISSION_DENIED,
    b"404": outcome.UNIMPLEMENTED,
    b"429": outcome.UNAVAILABLE,
    b"431": outcome.INTERNAL,
    b"502": outcome.UNAVAILABLE,
    b"503": outcome.UNAVAILABLE,
    b"504": outcome.UNAVAILABLE,
}

_CODES = {b"%d" % code: code for code in range(17)}


def reset_status(error_code: int) -> int:
    """Return the gRPC status that an upstream's RST_STREAM stands for."""
    return _RESET_STATUS.get(error_code, outcome.INTERNAL)


def reset_name(error_code: int) -> str:
    """Return the name of an HTTP/2 error code."""
    return _RESET_NAMES[error_code] if error_code < len(_RESET_NAMES) else str(error_code)


def http_status(status: bytes) -> int:
    """Return the gRPC status for an HTTP status that came without one."""
    return _HTTP_STATUS.get(status, outcome.UNKNOWN)


def parse_status(value: bytes) -> int:
    """Return the gRPC status in a `grpc-status` header, UNKNOWN where it is none."""
    return _CODES.get(value, outcome.UNKNOWN)


def encode_message(text: str) -> bytes:
    """Return a `grpc-message`, percent-encoded."""
    if text.isascii() and text.isprintable() and "%" not in text:
        return text.encode()
    return b"".join(_ENCODED[one] for one in text.encode("utf-8", "replace"))


def decode_message(value: bytes) -> str:
    """Return the text of a `grpc-message`; what is not well encoded stays as it is."""
    if b"%" not in value:
        return value.decode("utf-8", "replace")
    first, *rest = value.split(b"%")
    parts = [first]
    for part in rest:
        try:
            parts.append(bytes([int(part[:2], 16)]) + part[2:] if len(part) > 1 else b"%" + part)
        except ValueError:
            parts.append(b"%" + part)
    return b"".join(parts).decode("utf-8", "replace")


def status_trailers(call: Call, given: Sequence[Header] = ()) -> list[Header]:
    """Return the trailers of a status that the edge wrote; `given` are metadata of the upstream to keep."""
    trailers = [(GRPC_STATUS, b"%d" % call.status)]
    if call.message:
        trailers.append((GRPC_MESSAGE, encode_message(call.message)))
    trailers += given
    if call.reason is not None:
        trailers.append((TRAILER, call.reason.wire))
    return trailers


_ENCODED = [bytes([one]) if 0x20 <= one <= 0x7E and one != 0x25 else b"%%%02X" % one for one in range(256)]
