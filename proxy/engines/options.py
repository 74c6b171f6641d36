"""What the engines put up with: of clients beyond what the limits of calls bound, and of endpoints. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mesh.options import require

# The longest that TLS and connects are waited for.
_LONGEST_WAIT = 300.0
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Protection:
    """Bounds on client connections. Those per second are counted over whole seconds of the engine's sweep.

    They are far above what gRPC clients do, deadlines of a few milliseconds included, and far below what hurts: at
    their limits a connection costs the edge some percent of a core. A connection over one of them is ended with GOAWAY
    ENHANCE_YOUR_CALM.
    """

    # Open client connections over all listeners (aio: on each); further ones are closed at once.
    max_connections: int = 10_000
    # Streams that a client may reset in a second (rapid reset, CVE-2023-44487).
    resets_per_second: int = 5000
    # PING and SETTINGS frames in a second, counted together: each is answered.
    control_frames_per_second: int = 200
    # DATA frames without data that do not end a stream, in a second.
    empty_frames_per_second: int = 1000
    # WINDOW_UPDATE frames in a second. Some clients send one for each DATA frame.
    window_updates_per_second: int = 50_000
    # How long a client may take from connecting to its SETTINGS, in seconds, a TLS handshake included.
    handshake_seconds: float = 10.0
    # How long a client may take from connecting to the headers of its first call, in seconds, before its connection is
    # drained; `inf` never does so. A header block that never ends is no call.
    first_call_seconds: float = 300.0
    # How long a client connection may be without a call before it is drained, in seconds; `inf` never does so.
    # Keepalive pings do not count as calls.
    idle_seconds: float = 3600.0
    # Bytes of messages that all calls of one client connection may have lying in the edge beyond the small window
    # (64 KiB) of each: what a client that reads nothing can make the edge hold.
    max_buffered_bytes: int = 32 * 1024 * 1024

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        for name in (
            "max_connections",
            "resets_per_second",
            "control_frames_per_second",
            "empty_frames_per_second",
            "window_updates_per_second",
        ):
            require(1 <= getattr(self, name) <= _MOST, f"protection.{name} must be from 1 to {_MOST}")
        require(
            0 < self.handshake_seconds <= _LONGEST_WAIT,
            f"protection.handshake_seconds must be above 0 and at most {_LONGEST_WAIT:g}",
        )
        for name in ("first_call_seconds", "idle_seconds"):
            require(getattr(self, name) > 0, f"protection.{name} must be above 0, or inf")
        require(0 <= self.max_buffered_bytes <= _MOST, f"protection.max_buffered_bytes must be from 0 to {_MOST}")


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How an endpoint is connected to."""

    # Connections to one endpoint. A further one is opened when the peer's limit of streams is reached on all others:
    # as long as it is not, one connection costs least.
    max_connections: int = 4
    # Calls that may wait for a connection, or for a stream when all connections are full.
    max_waiting: int = 1000
    # How long a connection may take to come about, in seconds, SETTINGS included. An endpoint on the same network needs
    # milliseconds.
    connect_seconds: float = 1.0
    # How long the endpoint is taken to be away after a first failed connect, in seconds. It doubles with each further.
    backoff_seconds: float = 0.1
    # The longest that it is taken to be away without another try, in seconds.
    max_backoff_seconds: float = 2.0
    # How long a connection may be without a call before it is closed, in seconds; `inf` never does so.
    idle_seconds: float = 900.0

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        for name in ("max_connections", "max_waiting"):
            require(1 <= getattr(self, name) <= _MOST, f"pool.{name} must be from 1 to {_MOST}")
        for name in ("connect_seconds", "backoff_seconds", "max_backoff_seconds"):
            require(
                0 < getattr(self, name) <= _LONGEST_WAIT, f"pool.{name} must be above 0 and at most {_LONGEST_WAIT:g}"
            )
        require(
            self.backoff_seconds <= self.max_backoff_seconds,
            "pool.backoff_seconds must not be above pool.max_backoff_seconds",
        )
        require(self.idle_seconds > 0, "pool.idle_seconds must be above 0, or inf")


# What grpc core decides alone, so that the aio engine cannot obey it.
NOT_IN_AIO: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "protection": frozenset(
            {
                "resets_per_second",
                "control_frames_per_second",
                "empty_frames_per_second",
                "window_updates_per_second",
                "first_call_seconds",
                "max_buffered_bytes",
            }
        ),
        "pool": frozenset({"max_connections", "max_waiting"}),
    }
)


def without_effect(**groups: Protection | PoolOptions) -> list[str]:
    """Return the options that somebody has set and that the aio engine cannot obey, as "TABLE.NAME"."""
    return [
        f"{group}.{field.name}"
        for group, options in groups.items()
        for field in dataclasses.fields(options)
        if field.name in NOT_IN_AIO[group] and getattr(options, field.name) != field.default
    ]


def differing(group: str, before: Protection, after: Protection) -> list[str]:
    """Return the options that are others now, as "GROUP.NAME"."""
    names = [field.name for field in dataclasses.fields(before)]
    return [f"{group}.{name}" for name in names if getattr(before, name) != getattr(after, name)]


def milliseconds(seconds: float) -> int:
    """Return a time as grpc core takes it: whole milliseconds from 1 on, the most where it is `inf`."""
    return _MOST if math.isinf(seconds) else max(1, min(_MOST, int(seconds * 1000)))
