"""Flap damping: an instance that changes too often is held back for a while that grows with each change. Pure.

As routers do it with routes (RFC 2439): each change adds to a penalty that decays by half in a fixed time; above one
limit the instance is held, until the penalty has come down to another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mesh.clock import Clock
from mesh.options import require
from services.registry.records import Key

# The mesh's own services are never held: the registry must stay in reach while it is restarted again and again.
EXEMPT_PREFIX = "mesh-"
# Below this a penalty is forgotten.
_NEGLIGIBLE = 0.05
_PRUNE_AT = 10_000


@dataclass(frozen=True, slots=True)
class DampingOptions:
    """What is too often."""

    enabled: bool = True
    # Seconds in which a penalty decays by half.
    half_life_seconds: float = 60.0
    # Changes: more than so many within about a half-life, and it is held until so many are left. A restart is one
    # change, so that a rolling restart, and one more that takes it back, do no harm.
    hold_above: float = 5.0
    release_below: float = 4.0
    # A hold is at least and at most so long.
    min_seconds: float = 10.0
    max_seconds: float = 300.0

    def __post_init__(self) -> None:
        require(0 < self.half_life_seconds <= 3600, "damping: half_life_seconds must be above 0 and at most 3600")
        require(0 < self.release_below < self.hold_above, "damping: release_below must be above 0 and below hold_above")
        require(2 <= self.min_seconds <= self.max_seconds <= 3600, "damping: 2 <= min_seconds <= max_seconds <= 3600")

    @property
    def ceiling(self) -> float:
        """The penalty whose hold is the longest: more is not counted, so that it has an end."""
        return self.release_below * 2 ** (self.max_seconds / self.half_life_seconds)


class FlapDamping:
    """Counts the changes of instances."""

    def __init__(self, options: DampingOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        # By instance: its penalty, and when it was that.
        self._penalties: dict[Key, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._penalties)

    def penalty(self, key: Key) -> float:
        """Return what is left of the penalty now."""
        penalty, since = self._penalties.get(key, (0.0, 0.0))
        return float(penalty * 0.5 ** ((self._clock.now() - since) / self._options.half_life_seconds))

    def changed(self, key: Key) -> float:
        """Count a change and return the seconds that the instance is to be held from now on; 0 is not."""
        options = self._options
        if not options.enabled or key[0].startswith(EXEMPT_PREFIX):
            return 0.0
        penalty = min(self.penalty(key) + 1.0, options.ceiling)
        if len(self._penalties) >= _PRUNE_AT:
            self._prune()
        self._penalties[key] = (penalty, self._clock.now())
        if penalty <= options.hold_above:
            return 0.0
        seconds = options.half_life_seconds * math.log2(penalty / options.release_below)
        return min(max(seconds, options.min_seconds), options.max_seconds)

    def _prune(self) -> None:
        self._penalties = {key: kept for key, kept in self._penalties.items() if self.penalty(key) > _NEGLIGIBLE}
