"""Which of the ways that the configuration has for a method a call takes. Pure.

Only a method that some route of the configuration is for has a `Chooser`; the others never come here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from mesh.edge.policy.match import Headers, Match
from mesh.edge.policy.sharing import Turn, single, weighted

if TYPE_CHECKING:
    from proxy.call.call import Call
    from proxy.routing.table import MethodRoute

# What takes a call that matched to one of the destinations.
Take: TypeAlias = "Callable[[Headers], MethodRoute]"

__all__ = ["Chooser", "Take", "Turn", "single", "weighted"]


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
