"""Which service a method belongs to, compiled when the registry changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from mesh.discovery.model import Directory, Service
from mesh.edge import EDGE_SERVICE
from proxy.upstream.plan import Plan, Plans
from proxy.upstream.pool import EndpointPool
from proxy.upstream.targets import Targets
from proxy.upstream.weighing import Weigh, plain

if TYPE_CHECKING:
    from mesh.edge.policy.document import Route
    from proxy.call.limits import Limits
    from proxy.interceptors.metrics import MethodStats
    from proxy.routing.choice import Chooser
    from proxy.routing.mirror import Mirror
    from proxy.routing.rules import Rules, TargetsOf

# Method names come from clients, so what is kept per method is bounded: the rest of a service shares one entry.
MAX_METHODS = 200
OTHER = "_other"

_PATH = re.compile(rb"/([A-Za-z_][A-Za-z0-9_.]*)/([A-Za-z_][A-Za-z0-9_]*)").fullmatch


class ServiceRoute:
    """Where the calls of one gRPC service go on one listener."""

    __slots__ = ("_methods", "_others", "_plans", "_room", "_rules", "grpc_service", "is_local", "service", "targets")

    def __init__(
        self,
        grpc_service: str,
        service: str,
        targets: Targets,
        plans: Plans | None = None,
        rules: Rules | None = None,
        *,
        is_local: bool = False,
    ) -> None:
        self.grpc_service = grpc_service
        self.service = service
        self.targets = targets
        # The edge answers it itself.
        self.is_local = is_local
        self._plans = plans
        self._rules = rules
        self._methods: dict[str, MethodRoute] = {}
        # Clients may make up names; those that the configuration has are not among the bounded ones.
        named = tuple(rules.named(grpc_service)) if rules is not None else ()
        self._room = MAX_METHODS + len(named)
        # Those of the methods beyond the bound, by their policy: nobody escapes a policy by calling many names.
        self._others: dict[Plan | None, MethodRoute] = {}
        for name in named:
            self.method(name)

    def method(self, name: str) -> MethodRoute:
        """Return the entry of a method; methods beyond a bound share one for each policy."""
        known = self._methods.get(name)
        if known is not None:
            return known
        plan = self._plans.of(self.service, f"{self.grpc_service}/{name}") if self._plans is not None else None
        if len(self._methods) < self._room:
            return self._methods.setdefault(name, self._made(name, name, plan))
        return self._others.get(plan) or self._others.setdefault(plan, self._made(OTHER, name, plan))

    def _made(self, label: str, name: str, plan: Plan | None) -> MethodRoute:
        made = MethodRoute(self, label, plan)
        return made if self._rules is None else self._rules.refine(made, name)


class MethodRoute:
    """One method of a route; the unit that calls are counted by."""

    __slots__ = (
        "chooser",
        "is_local",
        "label",
        "limits",
        "mirror",
        "plain",
        "plan",
        "route",
        "rule",
        "service",
        "stats",
        "targets",
    )

    def __init__(self, route: ServiceRoute, label: str, plan: Plan | None, targets: Targets | None = None) -> None:
        """Make it; without `targets` its calls go where all of its gRPC service go."""
        self.route = route
        self.service = route.service
        targets = route.targets if targets is None else targets
        self.targets = targets if plan is None else plan.targets(targets)
        self.is_local = route.is_local
        # What its policy asks for; None where it has none.
        self.plan = plan
        # "shop.v1.Orders/Get", or one name for all methods beyond the bound.
        self.label = f"{route.grpc_service}/{label}"
        # Where the metrics count it; set by them.
        self.stats: MethodStats | None = None
        # Decides which way a call goes, where the configuration has several; None where this is the way.
        self.chooser: Chooser | None = None
        # Has copies made; what is accepted, where that is not what the edge accepts of all calls.
        self.mirror: Mirror | None = None
        self.limits: Limits | None = None
        # Which entry of the configuration the way comes from; None is the registry alone.
        self.rule: Route | None = None
        # Nothing above has to be looked at to begin a call.
        self.plain = plan is None and not route.is_local

    def choose_by(self, chooser: Chooser) -> None:
        """Have calls take one of several ways."""
        self.chooser = chooser
        self.plain = False

    def copy_by(self, mirror: Mirror) -> None:
        """Have copies of calls made."""
        self.mirror = mirror
        self.plain = False

    def variant(self, service: str, targets: Targets, plan: Plan | None, rule: Route) -> MethodRoute:
        """Return another way for the same method, which an entry of the configuration asks for."""
        made = MethodRoute(self.route, "", plan, targets)
        made.label, made.service, made.rule = self.label, service, rule
        return made


class RouteTable:
    """The routes of one listener."""

    __slots__ = ("_cache", "routes", "service_names")

    def __init__(self, routes: Mapping[str, ServiceRoute], service_names: Iterable[str]) -> None:
        self.routes = routes
        # Registered services that may be named to this listener, whether or not an instance lives.
        self.service_names = frozenset(service_names)
        self._cache: dict[bytes, MethodRoute] = {}

    def find(self, path: bytes) -> MethodRoute | None:
        """Return the route of a call's path, or None when this listener knows no such service."""
        found = self._cache.get(path)
        if found is not None:
            return found
        match = _PATH(path)
        route = self.routes.get(match[1].decode()) if match else None
        if match is None or route is None:
            return None
        found = route.method(match[2].decode())
        # Paths that share the catch-all entry are looked up each time: they are not bounded.
        if not found.label.endswith(f"/{OTHER}"):
            self._cache[path] = found
        return found


EMPTY = RouteTable({}, ())


def compile_table(
    directory: Directory,
    pool: EndpointPool,
    *,
    public_only: bool,
    local: Iterable[str] = (),
    plans: Plans | None = None,
    rules: Callable[[Mapping[str, Iterable[str]], TargetsOf], Rules] | None = None,
    weigh: Weigh = plain,
) -> RouteTable:
    """Return the routes of a listener.

    `public_only` leaves out what is not PUBLIC, down to single instances. `local` are the gRPC services that the edge
    answers itself, which no registration can take over. `plans` has the policies, if there are any, `rules` makes
    those of the configuration, and `weigh` says what each of a route's endpoints counts.
    """
    made = None
    if rules is not None:
        all_of = {
            one.name: sorted(pool.declared(one.name).union(one.grpc_services)) for one in directory.services.values()
        }
        made = rules(all_of, targets_of(pool, public_only=public_only, weigh=weigh))
    routes = {name: ServiceRoute(name, EDGE_SERVICE, Targets(()), is_local=True) for name in local}
    names = []
    for service in by_age(directory.services.values()):
        if public_only and not service.public and not pool.has_public(service.name):
            continue
        names.append(service.name)
        found = pool.declared(service.name, public_only=public_only)
        if not public_only or service.public:
            # Also what no live instance declares: its callers hear "unavailable", not "unknown".
            found = found.union(service.grpc_services)
        for grpc_service in sorted(found):
            if grpc_service not in routes:
                targets = pool.targets(service.name, grpc_service, public_only=public_only, weigh=weigh)
                routes[grpc_service] = ServiceRoute(grpc_service, service.name, targets, plans, made)
    return RouteTable(routes, names)


def declared(directory: Directory) -> dict[str, list[str]]:
    """Return the gRPC services of each service, by what it or an instance of it says."""
    found = {service.name: dict.fromkeys(service.grpc_services) for service in directory.services.values()}
    for one in directory.instances.values():
        found.setdefault(one.service, {}).update(dict.fromkeys(one.grpc_services))
    return {service: sorted(names) for service, names in found.items()}


def targets_of(pool: EndpointPool, *, public_only: bool, weigh: Weigh = plain) -> TargetsOf:
    """Return what finds the instances of a destination on a listener."""
    return lambda to, grpc_service: pool.targets(
        to.service, grpc_service, to.labels, public_only=public_only, weigh=weigh
    )


def by_age(services: Iterable[Service]) -> list[Service]:
    """Return services with the oldest first: it gets the calls of a gRPC service that several declare."""
    return sorted(services, key=lambda service: (service.create_revision, service.name))
