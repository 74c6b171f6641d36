"""gRPC's few rules on top of HTTP/2, written from its public description, for scripted peers."""

from __future__ import annotations

import struct
from collections.abc import Sequence

PREFIX_BYTES = 5


def frame(message: bytes, *, flag: int = 0) -> bytes:
    """Return a message with its length before it; flag 1 says "compressed"."""
    return struct.pack(">BI", flag, len(message)) + message


def frames(messages: Sequence[bytes]) -> bytes:
    return b"".join(map(frame, messages))


def parse(data: bytes) -> list[bytes]:
    """Return the complete messages in a stretch of data."""
    return [message for _, message in parse_flagged(data)]


def parse_flagged(data: bytes) -> list[tuple[int, bytes]]:
    """Return the complete messages in a stretch of data, each with its flag."""
    found = []
    while len(data) >= PREFIX_BYTES:
        flag, size = struct.unpack(">BI", data[:PREFIX_BYTES])
        if len(data) < PREFIX_BYTES + size:
            break
        found.append((flag, data[PREFIX_BYTES : PREFIX_BYTES + size]))
        data = data[PREFIX_BYTES + size :]
    return found


def request_headers(path: str, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"edge.test"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
    ]


def response_headers(*more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(b":status", b"200"), (b"content-type", b"application/grpc"), *more]


def status_headers(code: int, message: str = "", *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return trailers."""
    text = [(b"grpc-message", message.encode())] if message else []
    return [(b"grpc-status", b"%d" % code), *text, *more]
