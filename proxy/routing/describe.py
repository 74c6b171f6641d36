"""The ways that calls can take, and what looks odd about them, for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mesh.discovery.model import Directory
from mesh.edge.policy.document import INTERNAL, PUBLIC, Destination, Document, Labels, Route
from mesh.edge.policy.match import ALWAYS
from mesh.edge.policy.precedence import ANY_METHOD, OWN, origins
from mesh.edge.policy.routes import concerned, takes
from proxy.routing.table import RouteTable, by_age, declared, targets_of
from proxy.upstream.pool import EndpointPool


@dataclass(frozen=True, slots=True)
class Way:
    """Where a call can go."""

    origin: str
    name: str
    match: str
    service: str
    labels: Labels
    weight: int
    # That take calls now.
    endpoints: int
    # By group of options, where it is taken from in the document.
    policies: Mapping[str, str]
    mirror: str


@dataclass(frozen=True, slots=True)
class Described:
    """One method, or with "*" all others of a gRPC service."""

    listener: str
    grpc_service: str
    method: str
    ways: tuple[Way, ...]


def describe(
    document: Document, listener: str, table: RouteTable, directory: Directory, pool: EndpointPool
) -> Iterator[Described]:
    """Return the routes of a listener, ordered by gRPC service and method."""
    services = declared(directory)
    find = targets_of(pool, public_only=listener == PUBLIC)
    side = PUBLIC if listener == PUBLIC else INTERNAL
    routes = [(route, set(concerned(route, services))) for route in document.routes if route.listener in ("", side)]
    patterns = [*document.methods, *(one for route in document.routes for one in route.methods)]
    for grpc_service, there in sorted(table.routes.items()):
        if there.is_local:
            continue

        def way(route: Route | None, to: Destination | None, method: str) -> Way:
            service = to.service if to is not None else there.service  # noqa: B023 - called in this turn
            targets = find(to, grpc_service) if to is not None else there.targets  # noqa: B023
            found = origins(document, service, f"{grpc_service}/{method}", route)  # noqa: B023
            return Way(
                origin=route.where if route is not None else "",
                name=route.name if route is not None else "",
                match=route.said if route is not None else "",
                service=service,
                labels=to.labels if to is not None else (),
                weight=to.weight if to is not None else 1,
                endpoints=len(targets.endpoints),
                policies={group: where for group, where in found.items() if where != OWN},
                mirror=route.mirror.to.service if route is not None and route.mirror is not None else "",
            )

        for method in sorted({ANY_METHOD, *(name for service, name in patterns if service == grpc_service)}):
            ways: list[Way] = []
            for route, concerns in routes:
                if grpc_service in concerns and takes(route, grpc_service, method):
                    ways += [way(route, to, method) for to in route.to or (None,)]
                    if route.match is ALWAYS:
                        break
            else:
                ways.append(way(None, None, method))
            yield Described(listener, grpc_service, method, tuple(ways))


def warnings(document: Document, directory: Directory) -> list[str]:
    """Return what makes sense and yet may not be meant."""
    found = [f"services.{name}: is not registered" for name in document.services if name not in directory.services]
    known = {name for names in declared(directory).values() for name in names}
    for (grpc_service, _), settings in document.methods.items():
        if grpc_service not in known:
            found.append(f"{settings.where}: no registered service has {grpc_service}")
    for route in document.routes:
        named = [one.service for one in route.to] + ([route.mirror.to.service] if route.mirror is not None else [])
        found += [f"{route.where}: {name} is not registered" for name in named if name not in directory.services]
        found += [
            f"{route.where}: no registered service has {grpc_service}"
            for grpc_service, _ in route.methods
            if grpc_service not in known
        ]
        found += [
            f"{route.where}: {grpc_service} is not copied to {route.mirror.to.service}, where its calls go anyway"
            for grpc_service, _ in route.methods
            if route.mirror is not None
            and not (route.to or route.mirror.to.labels)
            and owner(directory, grpc_service) == route.mirror.to.service
        ]
    return list(dict.fromkeys(found))


def owner(directory: Directory, grpc_service: str) -> str:
    """Return the service that gets the calls of a gRPC service; "" is none."""
    services = declared(directory)
    return next((one.name for one in by_age(directory.services.values()) if grpc_service in services[one.name]), "")
