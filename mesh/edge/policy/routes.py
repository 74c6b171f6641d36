"""Which calls the routes of a document are for, and which instances they lead to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.discovery.model import Instance
from mesh.edge.policy.document import Labels, Route
from mesh.edge.policy.precedence import ANY_METHOD


def concerned(route: Route, declared: Mapping[str, Iterable[str]]) -> Iterable[str]:
    """Return the gRPC services that a route is for."""
    if route.methods:
        return dict.fromkeys(grpc_service for grpc_service, _ in route.methods)
    return dict.fromkeys(name for to in route.to for name in declared.get(to.service, ()))


def takes(route: Route, grpc_service: str, name: str) -> bool:
    """Tell whether a route that concerns a gRPC service is for that method of it."""
    return not route.methods or not {(grpc_service, name), (grpc_service, ANY_METHOD)}.isdisjoint(route.methods)


def has_labels(instance: Instance, labels: Labels) -> bool:
    """Tell whether an instance has all of the labels: its version, its zone, and its metadata."""
    return all(
        value == (getattr(instance, name) if name in ("version", "zone") else instance.metadata.get(name))
        for name, value in labels
    )
