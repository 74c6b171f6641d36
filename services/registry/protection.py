"""Self-protection: when many leases of a service expire at once, it is rather the network that died. Pure.

What the policy judges by: of a service, the leases that expired within a window, against what still lives. Instances
that leave by themselves shrink what lives and are never counted, so a deliberate scale-down does not trip it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mesh.clock import Clock
from mesh.options import require
from services.registry.records import Key


@dataclass(frozen=True, slots=True)
class ProtectionOptions:
    """When the last set of a service is kept in force, and when that ends."""

    enabled: bool = True
    # More than this share of a service has to expire, and at least so many: one or two die by themselves.
    share: float = 0.5
    minimum: int = 3
    # Seconds. Twice the default ttl: when a switch dies, everybody's lease runs out within one ttl.
    window_seconds: float = 30.0
    # It ends when this share of the set lives again (Eureka's threshold), at the latest after so many seconds.
    returned_share: float = 0.85
    max_seconds: float = 600.0

    def __post_init__(self) -> None:
        require(0 < self.share < 1, "protection: share must be above 0 and below 1")
        require(self.minimum >= 1, "protection: minimum must be at least 1")
        require(0 < self.window_seconds <= 3600, "protection: window_seconds must be above 0 and at most 3600")
        require(0 < self.returned_share <= 1, "protection: returned_share must be above 0 and at most 1")
        require(2 <= self.max_seconds <= 86_400, "protection: max_seconds must be from 2 to 86400")


T = TypeVar("T")


@dataclass(slots=True)
class _Lost(Generic[T]):
    # In the order in which they expired, and those of them that have not come back, with what they were.
    at: deque[tuple[float, Key]] = field(default_factory=deque)
    missing: dict[Key, tuple[float, T]] = field(default_factory=dict)


class SelfProtection(Generic[T]):
    """Judges expiries one after the other. Whoever asks keeps what it says is to be kept."""

    def __init__(self, options: ProtectionOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._lost: dict[str, _Lost[T]] = {}

    def expired(self, key: Key, what: T, live: int, *, protected: bool) -> list[T]:
        """Return what is to be kept now that the lease of `key` has expired, and `live` others of its service live.

        `what` stands for the instance, and is handed back if it is to be kept.

        Nothing is while all is well, all that was lost within the window is when it trips, and afterwards, while
        the service is `protected`, each further one.
        """
        if not self._options.enabled:
            return []
        if protected:
            return [what]
        now = self._clock.now()
        lost = self._lost.setdefault(key[0], _Lost())
        lost.at.append((now, key))
        lost.missing[key] = now, what
        self._forget(key[0], now)
        missing = len(lost.missing)
        if missing < self._options.minimum or missing <= self._options.share * (missing + live):
            return []
        kept = [what for _, what in lost.missing.values()]
        del self._lost[key[0]]
        return kept

    def came(self, key: Key) -> None:
        """Note that an instance has registered."""
        if key[0] in self._lost:
            self._lost[key[0]].missing.pop(key, None)
            self._forget(key[0], self._clock.now())

    def is_over(self, live: int, kept: int) -> bool:
        """Tell whether a service with so many live and kept instances needs its protection no longer."""
        return kept == 0 or live >= self._options.returned_share * (live + kept)

    def reason(self, kept: int, live: int) -> str:
        """Return why it tripped, in a sentence."""
        return (
            f"{kept} of {kept + live} leases expired within {self._options.window_seconds:g} s: "
            "the last set is kept in force"
        )

    def _forget(self, service: str, now: float) -> None:
        lost = self._lost[service]
        while lost.at and lost.at[0][0] <= now - self._options.window_seconds:
            at, key = lost.at.popleft()
            if key in lost.missing and lost.missing[key][0] == at:
                del lost.missing[key]
        if not lost.missing:
            del self._lost[service]
