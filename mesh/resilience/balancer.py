"""Weighted round robin, worked out when the endpoints change and not when a call comes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

# A schedule is at most so long; finer shares than this are rounded.
MAX_SCHEDULE = 1000


def schedule(items: Sequence[T], weights: Sequence[int]) -> tuple[T, ...]:
    """Return `items` repeated in proportion to their weights and spread evenly; weight 0 is left out.

    Equal weights give each item once, in order.
    """
    live = [(item, weight) for item, weight in zip(items, weights, strict=True) if weight > 0]
    if not live:
        return ()
    scaled = _reduced([weight for _, weight in live])
    total = sum(scaled)
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
