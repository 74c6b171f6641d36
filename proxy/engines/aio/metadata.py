"""Metadata between grpc.aio, which has text and decoded binary values, and calls, which have bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from proxy.call.call import Metadata
from proxy.call.reason import Reason, Reject

GrpcMetadata = tuple[tuple[str, str | bytes], ...]

# Set anew by grpc on each hop, which refuses or overwrites what is given; and what HTTP/2 has no place for.
_SET_BY_GRPC = (b"user-agent", b"te", b"content-type", b"grpc-timeout", b"host")
_OF_HTTP1 = (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
_HOP = frozenset((*_SET_BY_GRPC, *_OF_HTTP1))

_UNPRINTABLE = re.compile(rb"[^\x20-\x7e]").search


def from_grpc(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """Return received metadata as bytes; `-bin` values stay as grpc decoded them."""
    return [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in metadata or ()]


def to_grpc(metadata: Metadata) -> GrpcMetadata:
    """Return metadata as grpc.aio sends it, without what belongs to one hop."""
    return tuple(
        (name.decode(), value if name.endswith(b"-bin") else value.decode())
        for name, value in metadata
        if name not in _HOP
    )


def check_printable(metadata: Metadata) -> None:
    """Refuse values that gRPC does not allow: its channel would, and it would look like a failure of the upstream."""
    if not _UNPRINTABLE(b"".join([value for name, value in metadata if not name.endswith(b"-bin")])):
        return
    bad = [name for name, value in metadata if not name.endswith(b"-bin") and _UNPRINTABLE(value)]
    raise Reject(
        Reason.MALFORMED_REQUEST,
        f"metadata '{bad[0].decode()}' must be printable ASCII; binary values go under a name that ends in -bin",
    )
