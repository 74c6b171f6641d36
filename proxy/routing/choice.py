"""Which of the ways that the configuration has for a method a call takes. Pure.

Only a method that some route of the configuration is for has a `Chooser`; the others never come here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

from mesh.edge.policy.match import Headers, Match
from mesh.resilience.balancer import schedule

if TYPE_CHECKING:
    from proxy.call.call import Call
    from proxy.routing.table import MethodRoute

# What takes a call that matched to one of the destinations.
Take: TypeAlias = "Callable[[Headers], MethodRoute]"

_HASH_BYTES = 8
_HASHES = 1 << (8 * _HASH_BYTES)


class Turn:
    """Whose turn it is among weighted destinations. Outlives the tables, so that changes elsewhere favour nobody."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = -1


class Chooser:
    """The ways of one method, in order."""

    __slots__ = ("_default", "_options")

    def __init__(self, options: Sequence[tuple[Match, Take]], default: MethodRoute) -> None:
        """Make it; `default` is for calls that nothing matches."""
        self._options = tuple(options)
        self._default = default

    def choose(self, call: Call) -> MethodRoute:
        """Return the way of a call."""
        headers = call.headers()
        for match, take in self._options:
            if match(headers):
                return take(headers)
        return self._default


def single(route: MethodRoute) -> Take:
    """Return what takes every call the same way."""
    return lambda _headers: route


def weighted(routes: Sequence[MethodRoute], weights: Sequence[int], turn: Turn, sticky: bytes = b"") -> Take:
    """Return what shares calls out by weight: in exact turns, or by the value of the metadata `sticky`.

    A value keeps its way as long as the weights stay, and when the last weight grows at the cost of the first, what
    goes the last way stays there: a canary's callers remain its callers while it grows.
    """
    turns = schedule(routes, weights)
    if not turns:
        turns = tuple(routes[:1])

    def in_turn(_headers: Headers) -> MethodRoute:
        turn.at = at = (turn.at + 1) % len(turns)
        return turns[at]

    if not sticky:
        return in_turn
    total = sum(weights) or 1
    bounds = [bound * _HASHES // total for bound in accumulate(weights)][:-1]

    def by_value(headers: Headers) -> MethodRoute:
        value = headers.get(sticky)
        if value is None:
            return in_turn(headers)
        number = int.from_bytes(blake2b(value, digest_size=_HASH_BYTES).digest(), "big")
        return routes[bisect_right(bounds, number)]

    return by_value
