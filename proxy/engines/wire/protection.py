"""What a client did in the last second, against what `Protection` lets it do. Pure."""

from __future__ import annotations

from proxy.engines.options import Protection


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
