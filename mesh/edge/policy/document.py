"""The document of the application `mesh.edge`, as values that are known to make sense. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mesh.edge import CONTROL_SERVICE, EDGE_SERVICE
from mesh.edge.policy.match import ALWAYS, Match, in_words, metadata_name, read_match
from mesh.edge.policy.reading import Place
from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.policy import (
    BalancerOptions,
    LimitOptions,
    OutlierOptions,
    RateLimitOptions,
    RetryOptions,
    TimeoutOptions,
)

MAX_ENTRIES = 2000
MAX_ROUTES = 500
MAX_DESTINATIONS = 32
MAX_LABELS = 16
MAX_WEIGHT = 1_000_000
MAX_MIRRORS_IN_FLIGHT = 10_000
DEFAULT_MIRRORS_IN_FLIGHT = 100

PUBLIC, INTERNAL = "public", "internal"

# Groups of options by name. Those that judge instances are of services alone.
_GROUPS: Mapping[str, type] = {
    "timeout": TimeoutOptions,
    "retry": RetryOptions,
    "rate_limit": RateLimitOptions,
    "balancer": BalancerOptions,
    "limits": LimitOptions,
}
_OF_SERVICES: Mapping[str, type] = {"breaker": BreakerOptions, "outlier": OutlierOptions}
GROUPS = (*_GROUPS, *_OF_SERVICES)

_SERVICE = re.compile(r"[a-z][a-z0-9-]{0,62}")
_METHOD = re.compile(r"/?([A-Za-z_][A-Za-z0-9_.]{0,254})/([A-Za-z_][A-Za-z0-9_]{0,127}|\*)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]{0,62}")

# By name, what the instances of a destination must have, sorted.
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """The groups of options that one place of the document has; None is not set there."""

    # The place, such as `services.orders`; "" is nowhere.
    where: str = ""
    timeout: TimeoutOptions | None = None
    retry: RetryOptions | None = None
    rate_limit: RateLimitOptions | None = None
    balancer: BalancerOptions | None = None
    limits: LimitOptions | None = None
    breaker: BreakerOptions | None = None
    outlier: OutlierOptions | None = None


NO_SETTINGS = Settings()


@dataclass(frozen=True, slots=True)
class Destination:
    """Some of the instances of a service, or all of them."""

    service: str
    weight: int = 1
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class MirrorRule:
    """Where copies go."""

    to: Destination
    percent: float = 100.0
    max_in_flight: int = DEFAULT_MIRRORS_IN_FLIGHT


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of `routes`."""

    where: str
    name: str
    match: Match
    # What `match` asks of metadata, in words; "" is nothing.
    said: str = ""
    # gRPC services and their methods, "*" for all; () is what a destination declares.
    methods: tuple[tuple[str, str], ...] = ()
    listener: str = ""
    # () is where the call goes anyway.
    to: tuple[Destination, ...] = ()
    sticky: bytes = b""
    mirror: MirrorRule | None = None
    settings: Settings = NO_SETTINGS


@dataclass(frozen=True, slots=True)
class Document:
    """All that a release says."""

    defaults: Settings = NO_SETTINGS
    services: Mapping[str, Settings] = field(default_factory=dict)
    # By service, whether it is public.
    exposure: Mapping[str, bool] = field(default_factory=dict)
    # By gRPC service and method, "*" for all of it.
    methods: Mapping[tuple[str, str], Settings] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    # What is set of the fields of the edge's own limits and protection.
    limits: Mapping[str, int] = field(default_factory=dict)
    protection: Mapping[str, Any] = field(default_factory=dict)


# Reads `edge`, of which only edges know more, to `limits` and `protection`.
EdgeReader = Callable[[Place], tuple[Mapping[str, int], Mapping[str, Any]]]


def read(content: object, ceiling: object = None, edge: EdgeReader | None = None) -> Document:
    """Return what a document says; no limit may be over the one of that name in `ceiling`, an edge's own options.

    What is under `edge` is left alone without a reader for it.

    Raises:
        PolicyError: it makes no sense.

    """
    top = Place(content).mapping(("defaults", "services", "methods", "routes", "edge"))
    services: dict[str, Settings] = {}
    exposure: dict[str, bool] = {}
    for name, place in _entries(top, "services").items():
        _check_name(name, place)
        services[name], public = _service(name, place, ceiling)
        if public is not None:
            exposure[name] = public
    methods: dict[tuple[str, str], Settings] = {}
    for pattern, place in _entries(top, "methods").items():
        key = _method(Place(pattern, place.path))
        if key in methods:
            raise place.wrong("the same methods are there twice, with / before them and without")
        methods[key] = _settings(place.mapping(_GROUPS), str(place), ceiling)
    routes = top["routes"].items(most=MAX_ROUTES) if "routes" in top else []
    limits, protection = edge(top["edge"]) if edge is not None and "edge" in top else ({}, {})
    return Document(
        defaults=_settings(top["defaults"].mapping(GROUPS), "defaults", ceiling) if "defaults" in top else NO_SETTINGS,
        services=services,
        exposure=exposure,
        methods=methods,
        routes=tuple(_route(place, ceiling) for place in routes),
        limits=limits,
        protection=protection,
    )


def _entries(top: Mapping[str, Place], key: str) -> dict[str, Place]:
    return top[key].mapping(most=MAX_ENTRIES) if key in top else {}


def _service(name: str, place: Place, ceiling: object) -> tuple[Settings, bool | None]:
    given = place.mapping((*GROUPS, "exposure"))
    exposed = given.pop("exposure", None)
    public = None if exposed is None else exposed.one_of((PUBLIC, INTERNAL)) == PUBLIC
    if exposed is not None and public and name in (EDGE_SERVICE, CONTROL_SERVICE):
        raise exposed.wrong(f"{name} is the mesh itself, and is never public")
    return _settings(given, str(place), ceiling), public


def _settings(given: Mapping[str, Place], where: str, ceiling: object) -> Settings:
    groups = {**_GROUPS, **_OF_SERVICES}
    options: dict[str, Any] = {key: place.options(groups[key]) for key, place in given.items() if key in groups}
    if "limits" in options:
        check_ceiling(given["limits"], ("max_message_bytes", "max_header_bytes"), ceiling)
    return Settings(where, **options)


def check_ceiling(place: Place, names: tuple[str, ...], ceiling: object) -> None:
    """Refuse limits that the edge's own forbid; their types have been checked."""
    for name, limit in place.mapping().items():
        most = getattr(ceiling, name, None) if name in names else None
        if most is not None and limit.value > most:
            raise limit.wrong(f"must be at most {most}, what the edge's own options allow (limits.{name})")


def _route(place: Place, ceiling: object) -> Route:
    given = place.mapping((*_GROUPS, "name", "match", "to", "sticky", "mirror"))
    where = str(place)
    if "match" not in given:
        raise Place(None, (*place.path, "match")).wrong("is missing")
    match = given["match"].mapping(("methods", "headers", "listener"))
    methods = tuple(map(_method, match["methods"].items(least=1, most=100))) if "methods" in match else ()
    to = _destinations(given["to"]) if "to" in given else ()
    if not methods and not to:
        raise given["match"].wrong("a route without destinations (to) has to name its methods")
    if "sticky" in given and len(to) < 2:
        raise given["sticky"].wrong("there are no two destinations (to) to decide between")
    mirror = _mirror(given["mirror"]) if "mirror" in given else None
    for destination in to if mirror is not None else ():
        if _overlap(destination, mirror.to):  # type: ignore[union-attr] # it is not None here
            raise given["mirror"].wrong("the calls would be mirrored to where they go")
    return Route(
        where=where,
        name=given["name"].text(like=_NAME, what="a name of letters, digits, spaces and _.-")
        if "name" in given
        else "",
        match=read_match(match["headers"]) if "headers" in match else ALWAYS,
        said=in_words(match["headers"]) if "headers" in match else "",
        methods=methods,
        listener=match["listener"].one_of((PUBLIC, INTERNAL)) if "listener" in match else "",
        to=to,
        sticky=metadata_name(given["sticky"], given["sticky"].text()) if "sticky" in given else b"",
        mirror=mirror,
        settings=_settings(given, where, ceiling),
    )


def _destinations(place: Place) -> tuple[Destination, ...]:
    found = tuple(_destination(one, ("service", "weight", "labels")) for one in place.items(most=MAX_DESTINATIONS))
    if not sum(one.weight for one in found):
        raise place.wrong("the weights add up to 0: no call could go anywhere")
    if len({(one.service, one.labels) for one in found}) < len(found):
        raise place.wrong("the same destination is there twice")
    return found


def _destination(place: Place, known: tuple[str, ...]) -> Destination:
    given = place.mapping(known)
    if "service" not in given:
        raise Place(None, (*place.path, "service")).wrong("is missing")
    service = given["service"].text(like=_SERVICE, what="the name of a service")
    if service == EDGE_SERVICE:
        raise given["service"].wrong("calls would go round: the edge is no destination")
    labels: Labels = ()
    if "labels" in given:
        labels = tuple(sorted((key, one.text()) for key, one in given["labels"].mapping(most=MAX_LABELS).items()))
    return Destination(service, given["weight"].whole(0, MAX_WEIGHT) if "weight" in given else 1, labels)


def _mirror(place: Place) -> MirrorRule:
    to = _destination(place, ("service", "labels", "percent", "max_in_flight"))
    given = place.mapping()
    return MirrorRule(
        to=to,
        percent=given["percent"].number(0, 100) if "percent" in given else 100.0,
        max_in_flight=(
            given["max_in_flight"].whole(1, MAX_MIRRORS_IN_FLIGHT)
            if "max_in_flight" in given
            else DEFAULT_MIRRORS_IN_FLIGHT
        ),
    )


def _overlap(one: Destination, other: Destination) -> bool:
    """Tell whether an instance can belong to both."""
    mine, its = dict(one.labels), dict(other.labels)
    return one.service == other.service and all(mine[key] == its[key] for key in mine.keys() & its.keys())


def _method(place: Place) -> tuple[str, str]:
    text = place.text(like=_METHOD, what="/pkg.Service/Method or pkg.Service/*")
    found = _METHOD.fullmatch(text)
    assert found is not None
    return found[1], found[2]


def _check_name(name: str, place: Place) -> None:
    if not _SERVICE.fullmatch(name):
        raise place.wrong("is no name of a service")
