"""Metadata between grpc.aio, which has text and decoded binary values, and calls, which have bytes."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.call.call import Metadata

GrpcMetadata = tuple[tuple[str, str | bytes], ...]

# Set anew by the grpc channel on each hop, which refuses or overwrites what is given.
_HOP = frozenset({b"user-agent", b"te", b"content-type", b"grpc-timeout", b"host", b"connection"})


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
