"""Where the routes of `mesh.edge` lead the calls of one method: canaries and subsets, as at the edge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.edge.policy.document import INTERNAL, Destination, Document, Route
from mesh.edge.policy.match import ALWAYS, Match
from mesh.edge.policy.precedence import resolve
from mesh.edge.policy.routes import concerned, takes
from mesh.edge.policy.sharing import Headers, Turn, single, weighted
from mesh.resilience.policy import HedgeOptions

if TYPE_CHECKING:
    from mesh.sdk.plan import Plan
    from mesh.sdk.upstream import Upstream

# Given a service, its upstream.
UpstreamOf = Callable[[str], "Upstream"]


@dataclass(slots=True)
class Way:
    """Some instances of a service, and what calls to them meet."""

    upstream: Upstream
    plan: Plan


class Ways:
    """The routes that are for one method, in order."""

    def __init__(self, options: Sequence[tuple[Match, Callable[[Headers], Way]]]) -> None:
        self._options = tuple(options)

    def choose(self, headers: Headers) -> Way | None:
        """Return the way of a call with such metadata, None where no route is for it."""
        for match, take in self._options:
            if match(headers):
                return take(headers)
        return None


class Router:
    """Makes the ways of methods, as a document has them."""

    def __init__(self, upstream_of: UpstreamOf) -> None:
        self._upstream_of = upstream_of
        self.document = Document()
        # Outlive changes, so that one elsewhere favours nobody.
        self._turns: dict[tuple[str, str, str], Turn] = {}

    def ways(
        self, service: str, method: str, declared: Mapping[str, Iterable[str]], hedges: Mapping[str, HedgeOptions]
    ) -> Ways | None:
        """Return the ways of "pkg.Service/Method" for calls to a service; None where no route is for them.

        A route counts where the service is among its destinations, or where it has none: who calls a service by its
        name is not led to another one.
        """
        grpc_service, _, name = method.partition("/")
        options: list[tuple[Match, Callable[[Headers], Way]]] = []
        for route in self.document.routes:
            if route.listener not in ("", INTERNAL) or (route.to and service not in {to.service for to in route.to}):
                continue
            if grpc_service not in concerned(route, declared) or not takes(route, grpc_service, name):
                continue
            options.append((route.match, self._take(route, service, method, hedges)))
            if route.match is ALWAYS:
                break  # nothing comes past it
        return Ways(options) if options else None

    def _take(
        self, route: Route, service: str, method: str, hedges: Mapping[str, HedgeOptions]
    ) -> Callable[[Headers], Way]:
        destinations = [to for to in route.to if to.weight] or [Destination(service)]
        ways = [(self._way(route, to, method, hedges), to.weight) for to in destinations]
        # A destination that takes no calls now leaves its share to the others.
        serving = [(way, weight) for way, weight in ways if way.plan.targets.willing] or ways[:1]
        if len(serving) == 1:
            return single(serving[0][0])
        turn = self._turns.setdefault((service, route.name or route.where, method), Turn())
        return weighted([way for way, _ in serving], [weight for _, weight in serving], turn, route.sticky)

    def _way(self, route: Route, to: Destination, method: str, hedges: Mapping[str, HedgeOptions]) -> Way:
        upstream = self._upstream_of(to.service)
        policy = resolve(self.document, to.service, method, route)
        return Way(upstream, upstream.plan_by(policy, method, hedges, to.labels))
