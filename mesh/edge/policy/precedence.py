"""THE place where precedence is written: of all that a document says, what rules a call. Pure.

Each group of options (timeout, retry, ...) is taken whole from the first of these places that has it:

1. the route that the call takes (`routes`),
2. the method by its own name (`methods`, /pkg.Service/Method),
3. the method by its gRPC service (`methods`, pkg.Service/*),
4. the service that the call goes to (`services`),
5. every service (`defaults`);

where none has it, the edge's own options hold. Groups are not mixed from several places: what is written together is
what holds together, and can be checked where it stands. Routes come in the order of the list; a call takes the first
one that matches it, and goes where it would go anyway when none does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.edge.policy.document import GROUPS, NO_SETTINGS, Document, Route, Settings
from mesh.resilience.policy import BalancerOptions, RoutePolicy

ANY_METHOD = "*"
# Where a group comes from that the document does not have.
OWN = "edge"


def places(document: Document, service: str, method: str, route: Route | None = None) -> Iterable[Settings]:
    """Return what concerns a call, most specific first. `method` is "pkg.Service/Method"; "" is the service alone."""
    if route is not None:
        yield route.settings
    if method:
        grpc_service, _, name = method.rpartition("/")
        yield document.methods.get((grpc_service, name), NO_SETTINGS)
        yield document.methods.get((grpc_service, ANY_METHOD), NO_SETTINGS)
    yield document.services.get(service, NO_SETTINGS)
    yield document.defaults


def resolve(document: Document, service: str, method: str, route: Route | None = None) -> RoutePolicy | None:
    """Return the policy of a call to `service`, None where the document asks for nothing."""
    chosen = _chosen(places(document, service, method, route))
    if not chosen:
        return None
    options = {group: getattr(settings, group) for group, settings in chosen.items()}
    return RoutePolicy(
        name=chosen["rate_limit"].where if "rate_limit" in chosen else "",
        limits_name=chosen["limits"].where if "limits" in chosen else "",
        **{"balancer": BalancerOptions(), **options},
    )


def origins(document: Document, service: str, method: str, route: Route | None = None) -> Mapping[str, str]:
    """Return by group the place in the document that it is taken from, OWN where there is none."""
    chosen = _chosen(places(document, service, method, route))
    return {group: f"{chosen[group].where}.{group}" if group in chosen else OWN for group in GROUPS}


def _chosen(found: Iterable[Settings]) -> dict[str, Settings]:
    chosen: dict[str, Settings] = {}
    for settings in found:
        if settings is NO_SETTINGS:
            continue
        for group in GROUPS:
            if group not in chosen and getattr(settings, group) is not None:
                chosen[group] = settings
    return chosen
