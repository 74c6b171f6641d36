"""The document of a release, compiled for one listener: which ways each method has, and what rules its calls. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from mesh.edge.policy.document import INTERNAL, PUBLIC, Destination, Document, Route
from mesh.edge.policy.match import ALWAYS, Match
from mesh.edge.policy.precedence import ANY_METHOD, resolve
from mesh.edge.policy.routes import concerned, takes
from proxy.call.limits import Limits, limited
from proxy.routing.choice import Chooser, Take, Turn, single, weighted
from proxy.routing.mirror import Mirror, MirrorCounts
from proxy.upstream.plan import Plans
from proxy.upstream.targets import Targets

if TYPE_CHECKING:
    from proxy.routing.table import MethodRoute

# Returns the instances of a destination that serve a gRPC service, as one listener sees them.
TargetsOf = Callable[[Destination, str], Targets]


class Rules:
    """What a release says about the methods of one listener."""

    def __init__(
        self,
        document: Document,
        limits: Limits,
        plans: Plans,
        listener: str,
        declared: Mapping[str, Iterable[str]],
        targets: TargetsOf,
    ) -> None:
        """Compile; `limits` are the edge's, and `declared` the gRPC services of each service."""
        self._document = document
        self._limits = limits
        self._plans = plans
        self._listener = listener
        self._targets = targets
        side = PUBLIC if listener == PUBLIC else INTERNAL
        self._routes: dict[str, list[Route]] = {}
        self._named: dict[str, dict[str, None]] = {}
        for route in document.routes:
            if route.listener in ("", side):
                for grpc_service in concerned(route, declared):
                    self._routes.setdefault(grpc_service, []).append(route)
        for grpc_service, name in (*document.methods, *(one for route in document.routes for one in route.methods)):
            if name != ANY_METHOD:
                self._named.setdefault(grpc_service, {})[name] = None

    def named(self, grpc_service: str) -> Iterable[str]:
        """Return the methods that the document speaks of by name."""
        return self._named.get(grpc_service, ())

    def refine(self, made: MethodRoute, name: str) -> MethodRoute:
        """Return what the document makes of a new method, which goes where it would go without any route."""
        self._limit(made)
        grpc_service = made.route.grpc_service
        options: list[tuple[Match, Take]] = []
        for route in self._routes.get(grpc_service, ()):
            if not takes(route, grpc_service, name):
                continue
            ways, weights = self._ways(route, made, name)
            if route.match is ALWAYS and not options and len(ways) == 1:
                return ways[0]  # there is nothing to choose
            options.append((route.match, self._take(route, made, ways, weights)))
            if route.match is ALWAYS:
                break  # nothing comes past it
        if options:
            made.choose_by(Chooser(options, made))
        return made

    def _ways(self, route: Route, made: MethodRoute, name: str) -> tuple[list[MethodRoute], list[int]]:
        """Return where a route takes calls of a method, with weights."""
        if not route.to:
            return [self._way(route, made, name, None)], [1]
        ways = [(self._way(route, made, name, one), one.weight) for one in route.to if one.weight]
        # A destination that takes no calls now leaves its share to the others.
        serving = [(way, weight) for way, weight in ways if way.targets.endpoints] or ways[:1]
        return [way for way, _ in serving], [weight for _, weight in serving]

    def _take(self, route: Route, made: MethodRoute, ways: list[MethodRoute], weights: list[int]) -> Take:
        if len(ways) == 1:
            return single(ways[0])
        turn = self._plans.kept.get(Turn, made.service, "turn", route.name or route.where, self._listener, made.label)
        return weighted(ways, weights, turn, route.sticky)

    def _way(self, route: Route, made: MethodRoute, name: str, to: Destination | None) -> MethodRoute:
        """Return where a route takes calls of a method."""
        grpc_service = made.route.grpc_service
        service = to.service if to is not None else made.service
        policy = resolve(self._document, service, f"{grpc_service}/{name}", route)
        targets = self._targets(to, grpc_service) if to is not None else made.route.targets
        way = made.variant(service, targets, self._plans.made(service, policy), route)
        self._limit(way)
        mirror = route.mirror
        if mirror is not None and (to is not None or mirror.to.service != made.service or mirror.to.labels):
            make = functools.partial(MirrorCounts, mirror.to.service)
            counts = self._plans.kept.get(make, made.service, "mirror", route.name or route.where, mirror.to)
            where = made.variant(mirror.to.service, self._targets(mirror.to, grpc_service), None, route)
            way.copy_by(Mirror(where, mirror, counts))
        return way

    def _limit(self, made: MethodRoute) -> None:
        policy = made.plan.policy if made.plan is not None else None
        if policy is not None and policy.limits is not None:
            made.limits = limited(self._limits, policy.limits)
