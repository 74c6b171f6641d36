"""What every balancer is, and weighted round robin: worked out when the endpoints change, not when a call comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Balancer(Protocol[T_co]):
    """Chooses among items that are given, with their weights, when it is made: others take another balancer."""

    def pick(self, key: bytes, admits: Callable[[T_co], bool]) -> T_co | None:
        """Return the item that gets a call, None when none may have it.

        `admits` is asked in the order of preference, no more after its first True, and of every item before None is
        returned. `key` is what calls that belong together have in common; "" where there is nothing such.
        """
        ...


class Loaded(Protocol):
    """An item that knows how many calls it has now."""

    in_flight: int


class RoundRobin(Generic[T]):
    """In turn, in proportion to the weights."""

    __slots__ = ("_items", "_turn", "_turns")

    def __init__(self, items: Sequence[T], weights: Sequence[int]) -> None:
        self._turns = schedule(items, weights)
        self._items = tuple(dict.fromkeys(self._turns))
        self._turn = -1

    def pick(self, _key: bytes, admits: Callable[[T], bool]) -> T | None:
        """See Balancer.pick."""
        turns = self._turns
        if not turns:
            return None
        self._turn = turn = (self._turn + 1) % len(turns)
        first = turns[turn]
        return first if admits(first) else next_after(first, self._items, admits)


def next_after(first: T, items: Sequence[T], admits: Callable[[T], bool]) -> T | None:
    """Return the next item after `first`, in a circle, that is admitted; `first` is not asked again."""
    start = items.index(first) + 1
    for index in range(start, start + len(items) - 1):
        item = items[index % len(items)]
        if admits(item):
            return item
    return None


# A schedule is at most so long; finer shares than this are rounded.
MAX_SCHEDULE = 1000
# Up to so many turns times items each turn is earned, which spreads best: a few milliseconds. The rest is laid out.
MAX_EARNED = 50_000
# Multiples of the golden ratio never lie close together.
_SPREAD = 0.6180339887


def schedule(items: Sequence[T], weights: Sequence[int]) -> tuple[T, ...]:
    """Return `items` repeated in proportion to their weights and spread evenly; weight 0 is left out.

    Equal weights give each item once, in order.
    """
    live = [(item, weight) for item, weight in zip(items, weights, strict=True) if weight > 0]
    if not live:
        return ()
    scaled = _reduced([weight for _, weight in live])
    total = sum(scaled)
    if total == len(scaled):
        return tuple(item for item, _ in live)
    if total * len(scaled) > MAX_EARNED:
        # Each of a turn's places at its share of the circle, everyone beginning somewhere else.
        places = sorted(
            ((turn + (index * _SPREAD) % 1) / weight, index)
            for index, weight in enumerate(scaled)
            for turn in range(weight)
        )
        return tuple(live[index][0] for _, index in places)
    credit = [0] * len(live)
    turns = []
    # Smooth weighted round robin: everyone earns its weight a turn, the richest goes and pays the total.
    for _ in range(total):
        best = 0
        for index, weight in enumerate(scaled):
            credit[index] += weight
            if credit[index] > credit[best]:
                best = index
        credit[best] -= total
        turns.append(live[best][0])
    return tuple(turns)


def _reduced(weights: list[int]) -> list[int]:
    divisor = math.gcd(*weights)
    small = [weight // divisor for weight in weights]
    total = sum(small)
    if total <= max(MAX_SCHEDULE, len(weights)):
        return small
    return [max(1, round(weight * MAX_SCHEDULE / total)) for weight in small]
