"""Deadlines of very many calls for the price of a set each. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

TICK_SECONDS = 0.01


class Wheel(Generic[T]):
    """Items by the tick in which they are due; an item is never early, and late by less than a tick."""

    __slots__ = ("_seen", "_slots")

    def __init__(self) -> None:
        self._slots: dict[int, set[T]] = {}
        self._seen = -1

    def add(self, item: T, due: float) -> set[T]:
        """Note when an item is due, in clock seconds; returns the set to discard it from when it no longer is."""
        tick = max(int(due / TICK_SECONDS) + 1, self._seen + 1)
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = set()
        slot.add(item)
        return slot

    def expire(self, now: float) -> list[T]:
        """Return and forget what is due."""
        tick = int(now / TICK_SECONDS)
        slots = self._slots
        if tick - self._seen <= len(slots):
            passed = [one for one in range(self._seen + 1, tick + 1) if one in slots]
        else:
            passed = sorted(one for one in slots if one <= tick)
        self._seen = max(tick, self._seen)
        return [item for one in passed for item in slots.pop(one)]

    def __bool__(self) -> bool:
        """Tell whether anything may become due."""
        return bool(self._slots)
