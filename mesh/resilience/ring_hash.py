"""Consistent hashing with bounded loads: calls with one key go to one item, as long as it lives and is not overloaded.

Karger et al. (1997) for the ring; Mirrokni, Thorup and Zadimoghaddam (2016) for the bound.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Generic, TypeVar

from mesh.resilience.balancer import Loaded

L = TypeVar("L", bound=Loaded)

# Points on the ring of the heaviest item; the others have less in proportion. 160 points keep the largest share of the
# keys within a quarter of the fair one. Of very many items each has fewer, as making the ring takes time.
POINTS = 160
_FEW_POINTS = 40
_MANY_ITEMS = 200

_EIGHT = struct.Struct("<8Q")
_ONE = struct.Struct("<Q")


class RingHash(Generic[L]):
    """A ring. The same items and weights make the same one in every process."""

    __slots__ = ("_dice", "_factor", "_owners", "_points", "_shares", "items")

    def __init__(
        self,
        items: Sequence[L],
        weights: Sequence[int],
        names: Sequence[str],
        load_factor: float,
        dice: Callable[[], float],
    ) -> None:
        """Make it; the `names` of the items place them on the ring."""
        live = [one for one in zip(items, weights, names, strict=True) if one[1] > 0]
        heaviest = max((weight for _, weight, _ in live), default=1)
        most = POINTS if len(live) <= _MANY_ITEMS else _FEW_POINTS
        ring = sorted(
            (point, number)
            for number, (_, weight, name) in enumerate(live)
            for point in _points(name)[: max(1, round(most * weight / heaviest))]
        )
        self.items = tuple(item for item, _, _ in live)
        self._points = [point for point, _ in ring]
        self._owners = [number for _, number in ring]
        # What each may take of the calls in flight.
        total = sum(weight for _, weight, _ in live)
        self._shares = tuple(load_factor * weight / total for _, weight, _ in live)
        self._dice = dice

    def pick(self, key: bytes, admits: Callable[[L], bool]) -> L | None:
        """See Balancer.pick; calls without a key go to any item, in proportion to the weights."""
        owners = self._owners
        if not owners:
            return None
        start = bisect_left(self._points, position(key)) if key else int(self._dice() * len(owners))
        number = owners[start % len(owners)]
        item = self.items[number]
        # The sum is worth it only for items that have calls.
        if (not item.in_flight or item.in_flight < self._shares[number] * self._load()) and admits(item):
            return item
        return self._walk(start, admits)

    def _load(self) -> int:
        """Return the calls in flight, the one to come included."""
        return sum([item.in_flight for item in self.items]) + 1

    def _walk(self, start: int, admits: Callable[[L], bool]) -> L | None:
        """Go on along the ring: to whoever has room, else to whoever is admitted."""
        owners, items, shares = self._owners, self.items, self._shares
        load = self._load()
        first = owners[start % len(owners)]
        seen: set[int] = set()
        full = []
        for index in range(start, start + len(owners)):
            number = owners[index % len(owners)]
            if number in seen:
                continue
            seen.add(number)
            item = items[number]
            if item.in_flight and item.in_flight >= shares[number] * load:
                full.append(item)
            elif number != first and admits(item):  # the first one was asked
                return item
            if len(seen) == len(items):
                break
        return next((item for item in full if admits(item)), None)


def position(key: bytes) -> int:
    """Return where on the ring a key is."""
    return int(_ONE.unpack(blake2b(key, digest_size=8).digest())[0])


@lru_cache(maxsize=4096)
def _points(name: str) -> tuple[int, ...]:
    """Return the points of an item; fewer of them are the first ones, so that a change of weight moves little."""
    made: list[int] = []
    for number in range(POINTS // 8):
        made += _EIGHT.unpack(blake2b(f"{name}#{number}".encode()).digest())
    return tuple(made)
