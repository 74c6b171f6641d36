"""Which of several ways a call takes: the first that matches, and of weighted ones in turn or by a value. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import TypeVar

from mesh.resilience.balancer import schedule

W = TypeVar("W")

# Received metadata by name.
Headers = Mapping[bytes, bytes]

_HASH_BYTES = 8
_HASHES = 1 << (8 * _HASH_BYTES)


class Turn:
    """Whose turn it is among weighted destinations. Outlives the tables, so that changes elsewhere favour nobody."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = -1


def single(way: W) -> Callable[[Headers], W]:
    """Return what takes every call the same way."""
    return lambda _headers: way


def weighted(ways: Sequence[W], weights: Sequence[int], turn: Turn, sticky: bytes = b"") -> Callable[[Headers], W]:
    """Return what shares calls out by weight: in exact turns, or by the value of the metadata `sticky`.

    A value keeps its way as long as the weights stay, and when the last weight grows at the cost of the first, what
    goes the last way stays there: a canary's callers remain its callers while it grows.
    """
    turns = schedule(ways, weights)
    if not turns:
        turns = tuple(ways[:1])

    def in_turn(_headers: Headers) -> W:
        turn.at = at = (turn.at + 1) % len(turns)
        return turns[at]

    if not sticky:
        return in_turn
    total = sum(weights) or 1
    bounds = [bound * _HASHES // total for bound in accumulate(weights)][:-1]

    def by_value(headers: Headers) -> W:
        value = headers.get(sticky)
        if value is None:
            return in_turn(headers)
        number = int.from_bytes(blake2b(value, digest_size=_HASH_BYTES).digest(), "big")
        return ways[bisect_right(bounds, number)]

    return by_value
