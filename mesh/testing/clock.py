"""A clock that stands still until it is told to move."""

from __future__ import annotations


class ManualClock:
    """A `mesh.clock.Clock` that moves only by `advance`."""

    def __init__(self, now: float = 1000.0, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now = now
        self._wall_ns = wall_ns

    def now(self) -> float:
        return self._now

    def wall_ns(self) -> int:
        return self._wall_ns

    def advance(self, seconds: float) -> None:
        """Move both times forward by `seconds`."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._now += seconds
        self._wall_ns += round(seconds * 1e9)
