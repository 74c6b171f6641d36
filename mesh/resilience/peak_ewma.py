"""Peak EWMA: of two items drawn at random the one whose calls in flight will take less time gets the next one.

As Finagle and Linkerd do it: a latency above the mean counts in full at once, and what is below it is believed slowly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from mesh.resilience.balancer import Loaded, next_after, schedule

L = TypeVar("L", bound=Loaded)

# What a failure counts, as a multiple of what the item was taken to need: an endpoint that fails at once must not look
# fast. And where that ends, in seconds.
_FAILURE = 2.0
_MOST = 60.0


class Latency:
    """What an item is taken to need for a call, in seconds. Sinks while nothing is heard, so that it is tried again."""

    __slots__ = ("_at", "_rate", "_start", "_value", "decay_seconds")

    def __init__(self, decay_seconds: float, start_seconds: float, now: float) -> None:
        self.decay_seconds = decay_seconds
        self._rate = -1.0 / decay_seconds
        self._start = start_seconds
        self._value = start_seconds
        self._at = now

    def at(self, now: float) -> float:
        """Return it."""
        return self._value * math.exp((now - self._at) * self._rate)

    def observe(self, seconds: float, now: float) -> None:
        """Note what a call took."""
        old = math.exp((now - self._at) * self._rate)
        # Against the sunk value: after a pause what was known long ago counts for little.
        value = self._value * old
        self._value = min(_MOST, seconds if seconds > value else value + seconds * (1.0 - old))
        self._at = now

    def fail(self, seconds: float, now: float) -> None:
        """Note a call that failed after so long."""
        self._value = min(_MOST, max(seconds, _FAILURE * max(self.at(now), self._start)))
        self._at = now


class PeakEwma(Generic[L]):
    """Two draws in proportion to the weights; latency x (calls in flight + 1) decides."""

    __slots__ = ("_dice", "_items", "_now", "_turns")

    def __init__(
        self,
        items: Sequence[L],
        weights: Sequence[int],
        latencies: Sequence[Latency],
        now: Callable[[], float],
        dice: Callable[[], float],
    ) -> None:
        """Make it; `latencies` belong to the items, and whoever makes the calls tells them."""
        live = [weight for weight in weights if weight > 0]
        mean = sum(live) / len(live) if live else 1
        known = {
            id(item): (item, latency, mean / weight)
            for item, weight, latency in zip(items, weights, latencies, strict=True)
            if weight > 0
        }
        turns = schedule(items, weights)
        self._turns = tuple(known[id(item)] for item in turns)
        self._items = tuple(dict.fromkeys(turns))
        self._now = now
        self._dice = dice

    def pick(self, _key: bytes, admits: Callable[[L], bool]) -> L | None:
        """See Balancer.pick."""
        turns = self._turns
        count = len(turns)
        if count < 2:
            return turns[0][0] if turns and admits(turns[0][0]) else None
        dice, now = self._dice, self._now()
        one = int(dice() * count)
        two = int(dice() * (count - 1))
        first, latency, share = turns[one]
        second, other_latency, other_share = turns[two + 1 if two >= one else two]
        # The call to come is not weighed: draws have seen to that.
        if other_latency.at(now) * (second.in_flight * other_share + 1) < latency.at(now) * (
            first.in_flight * share + 1
        ):
            first, second = second, first
        if admits(first):
            return first
        if second is not first and admits(second):
            return second
        return next_after(first, self._items, lambda item: item is not second and admits(item))
