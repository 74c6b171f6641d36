"""How much of a connection's peer the engine puts up with, beyond what the limits of calls bound. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.options import require


@dataclass(frozen=True, slots=True)
class Protection:
    """Bounds on client connections. Those per second are counted over whole seconds of the engine's sweep.

    They are far above what gRPC clients do, deadlines of a few milliseconds included, and far below what hurts: at
    their limits a connection costs the edge some percent of a core. A connection over one of them is ended with GOAWAY
    ENHANCE_YOUR_CALM.
    """

    # Open client connections over all listeners; further ones are closed at once.
    max_connections: int = 10_000
    # Streams that a client may reset in a second (rapid reset, CVE-2023-44487).
    resets_per_second: int = 5000
    # PING and SETTINGS frames in a second, counted together: each is answered.
    control_frames_per_second: int = 200
    # DATA frames without data that do not end a stream, in a second.
    empty_frames_per_second: int = 1000
    # WINDOW_UPDATE frames in a second. Some clients send one for each DATA frame.
    window_updates_per_second: int = 50_000
    # How long a client may take from connecting to its SETTINGS, in seconds.
    handshake_seconds: float = 10.0
    # How long a client connection may be without a call before it is drained; None never ends it. Keepalive pings
    # do not count as calls.
    idle_seconds: float | None = 3600.0

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        for name in (
            "max_connections",
            "resets_per_second",
            "control_frames_per_second",
            "empty_frames_per_second",
            "window_updates_per_second",
        ):
            require(getattr(self, name) >= 1, f"protection.{name} must be at least 1")
        for name in ("handshake_seconds", "idle_seconds"):
            value = getattr(self, name)
            require(value is None or value > 0, f"protection.{name} must be above 0")


class Conduct:
    """What a peer did in this second."""

    __slots__ = ("control_frames", "empty_frames", "resets", "window_updates")

    def __init__(self) -> None:
        self.forgive()

    def forgive(self) -> None:
        """Begin a new second."""
        self.control_frames = 0
        self.empty_frames = 0
        self.resets = 0
        self.window_updates = 0

    def too_much(self, protection: Protection) -> str:
        """Return what the peer did too much of, "" when all is well."""
        if self.resets > protection.resets_per_second:
            return "resets"
        if self.control_frames > protection.control_frames_per_second:
            return "control frames"
        if self.empty_frames > protection.empty_frames_per_second:
            return "empty frames"
        if self.window_updates > protection.window_updates_per_second:
            return "window updates"
        return ""
