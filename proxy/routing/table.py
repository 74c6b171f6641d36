"""Which service a method belongs to, compiled when the registry changes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mesh.discovery.model import Directory, Instance, Service
from proxy.upstream.plan import Plan, Plans
from proxy.upstream.pool import EndpointPool
from proxy.upstream.targets import Targets

if TYPE_CHECKING:
    from proxy.interceptors.metrics import MethodStats

# The service name of what the edge answers itself.
EDGE_SERVICE = "mesh-edge"

# Method names come from clients, so what is kept per method is bounded: the rest of a service shares one entry.
MAX_METHODS = 200
OTHER = "_other"

_PATH = re.compile(rb"/([A-Za-z_][A-Za-z0-9_.]*)/([A-Za-z_][A-Za-z0-9_]*)").fullmatch


class ServiceRoute:
    """Where the calls of one gRPC service go on one listener."""

    __slots__ = ("_methods", "_others", "_plans", "grpc_service", "is_local", "service", "targets")

    def __init__(
        self, grpc_service: str, service: str, targets: Targets, plans: Plans | None = None, *, is_local: bool = False
    ) -> None:
        self.grpc_service = grpc_service
        self.service = service
        self.targets = targets
        # The edge answers it itself.
        self.is_local = is_local
        self._plans = plans
        self._methods: dict[str, MethodRoute] = {}
        # Those of the methods beyond the bound, by their policy: nobody escapes a policy by calling many names.
        self._others: dict[Plan | None, MethodRoute] = {}

    def method(self, name: str) -> MethodRoute:
        """Return the entry of a method; methods beyond a bound share one for each policy."""
        known = self._methods.get(name)
        if known is not None:
            return known
        plan = self._plans.of(self.service, f"{self.grpc_service}/{name}") if self._plans is not None else None
        if len(self._methods) < MAX_METHODS:
            return self._methods.setdefault(name, MethodRoute(self, name, plan))
        return self._others.get(plan) or self._others.setdefault(plan, MethodRoute(self, OTHER, plan))


class MethodRoute:
    """One method of a route; the unit that calls are counted by."""

    __slots__ = ("is_local", "label", "plan", "route", "service", "stats", "targets")

    def __init__(self, route: ServiceRoute, label: str, plan: Plan | None) -> None:
        self.route = route
        self.service = route.service
        self.targets = route.targets if plan is None else plan.targets(route.targets)
        self.is_local = route.is_local
        # What its policy asks for; None where it has none.
        self.plan = plan
        # "shop.v1.Orders/Get", or one name for all methods beyond the bound.
        self.label = f"{route.grpc_service}/{label}"
        # Where the metrics count it; set by them.
        self.stats: MethodStats | None = None


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
) -> RouteTable:
    """Return the routes of a listener.

    `public_only` leaves out what is not PUBLIC, down to single instances. `local` are the gRPC services that the edge
    answers itself, which no registration can take over. `plans` has the policies, if there are any.
    """
    routes = {name: ServiceRoute(name, EDGE_SERVICE, Targets(()), is_local=True) for name in local}
    names = []
    for service in by_age(directory.services.values()):
        instances = [one for one in directory.instances.values() if one.service == service.name]
        if public_only:
            instances = [one for one in instances if one.public]
            if not instances and not service.public:
                continue
        names.append(service.name)
        endpoints = pool.of(service.name)
        for grpc_service in _declared(service, instances, public_only=public_only):
            if grpc_service not in routes:
                declaring = {one.key for one in instances if grpc_service in one.grpc_services}
                targets = Targets([one for one in endpoints if one.instance.key in declaring])
                routes[grpc_service] = ServiceRoute(grpc_service, service.name, targets, plans)
    return RouteTable(routes, names)


def by_age(services: Iterable[Service]) -> list[Service]:
    """Return services with the oldest first: it gets the calls of a gRPC service that several declare."""
    return sorted(services, key=lambda service: (service.create_revision, service.name))


def _declared(service: Service, instances: Iterable[Instance], *, public_only: bool) -> list[str]:
    names = {name for one in instances for name in one.grpc_services}
    if not public_only or service.public:
        # Also what no live instance declares: its callers hear "unavailable", not "unknown".
        names.update(service.grpc_services)
    return sorted(names)
