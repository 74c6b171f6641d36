"""What was made of things that never change, kept while there is room. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Holds values of a total weight; what was not used for longest goes first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._weight = 0

    def get(self, key: K) -> V | None:
        found = self._held.get(key)
        if found is None:
            return None
        self._held.move_to_end(key)
        return found[0]

    def drop(self, key: K) -> None:
        """Forget a value, if it is held."""
        if key in self._held:
            self._weight -= self._held.pop(key)[1]

    def put(self, key: K, value: V, weight: int = 1) -> V:
        """Keep and return `value`."""
        self.drop(key)
        self._held[key] = (value, weight)
        self._weight += weight
        while self._weight > self._capacity and len(self._held) > 1:
            _, (_, gone) = self._held.popitem(last=False)
            self._weight -= gone
        return value
