"""The power of two choices: of two items drawn at random the one with fewer calls in flight gets the next one.

Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001). Nearly as good as looking at all, at the
price of two draws; and no herd runs to the one that looks best, as it would when everybody looked at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from mesh.resilience.balancer import Loaded, next_after, schedule

L = TypeVar("L", bound=Loaded)


class LeastRequest(Generic[L]):
    """Two draws in proportion to the weights; their calls in flight are compared in proportion to them as well.

    Where both have none, the first draw stands: so an idle service follows its weights, and so does a busy one.
    """

    __slots__ = ("_dice", "_items", "_turns")

    def __init__(self, items: Sequence[L], weights: Sequence[int], dice: Callable[[], float]) -> None:
        """Make it; `dice` returns numbers from 0 to below 1."""
        shares = {id(item): 1 / weight for item, weight in zip(items, weights, strict=True) if weight > 0}
        turns = schedule(items, weights)
        # Each with what its calls are worth.
        self._turns = tuple((item, shares[id(item)]) for item in turns)
        self._items = tuple(dict.fromkeys(turns))
        self._dice = dice

    def pick(self, _key: bytes, admits: Callable[[L], bool]) -> L | None:
        """See Balancer.pick."""
        turns = self._turns
        count = len(turns)
        if count < 2:
            return turns[0][0] if turns and admits(turns[0][0]) else None
        dice = self._dice
        one = int(dice() * count)
        two = int(dice() * (count - 1))
        first, share = turns[one]
        second, other = turns[two + 1 if two >= one else two]
        if second.in_flight * other < first.in_flight * share:
            first, second = second, first
        if admits(first):
            return first
        if second is not first and admits(second):
            return second
        return next_after(first, self._items, lambda item: item is not second and admits(item))
