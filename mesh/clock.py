"""Time as an argument: whoever decides by time is given a clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where time is read."""

    def now(self) -> float:
        """Return monotonic seconds, of use only relative to each other."""
        ...

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970-01-01 UTC; may jump."""
        ...


class SystemClock:
    """The machine's own time."""

    now = staticmethod(time.monotonic)
    wall_ns = staticmethod(time.time_ns)
