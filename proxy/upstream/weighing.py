"""What each endpoint of a route counts, worked out when the routes are compiled: its weight, warm-up and zone. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from mesh.clock import Clock
from mesh.discovery.model import Instance
from mesh.resilience.warmup import shared_weights, warming
from proxy.upstream.endpoint import Endpoint

Weigh: TypeAlias = Callable[[Sequence[Endpoint]], list[int]]

# Shares are rounded to so many parts in all.
PARTS = 10_000


def plain(endpoints: Sequence[Endpoint]) -> list[int]:
    """Return the weights as they are registered."""
    return [endpoint.instance.weight for endpoint in endpoints]


class Weighing:
    """Weights for an edge in one zone, now."""

    def __init__(self, zone: str, clock: Clock) -> None:
        """An empty zone is none: then calls are spread over all zones."""
        self._zone = zone
        self._clock = clock

    def __call__(self, endpoints: Sequence[Endpoint]) -> list[int]:
        """Return a whole number for each endpoint; 0 takes no calls."""
        instances = [endpoint.instance for endpoint in endpoints]
        if not self._zone and not self.changes(instances):
            return plain(endpoints)
        shares = shared_weights(instances, self._zone, self._now())
        return [max(1, round(share * PARTS)) if share > 0 else 0 for share in shares]

    def changes(self, instances: Iterable[Instance]) -> bool:
        """Tell whether any of these is warming up: then the weights will be others in a moment."""
        return warming(instances, self._now())

    def _now(self) -> float:
        return self._clock.wall_ns() / 1e9
