"""Documents: what is wrong is named by its path, whatever it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.edge import schema
from mesh.edge.policy.document import Destination, Document, MirrorRule
from mesh.edge.policy.reading import PolicyError
from mesh.resilience.policy import RetryOptions, TimeoutOptions
from proxy.call.limits import Limits
from proxy.policy.document import read
from services.config.schema import Schema

LIMITS = Limits()
TO = [{"service": "orders"}]


def route(**more: Any) -> dict[str, Any]:
    return {"routes": [{"match": {}, "to": TO, **more}]}


def test_all_that_there_is() -> None:
    found = read(
        {
            "defaults": {"timeout": {"max_seconds": 60}},
            "services": {"orders": {"exposure": "public", "retry": {"attempts": 2, "on": ["UNAVAILABLE"]}}, "x": {}},
            "methods": {"shop.v1.Orders/*": {"timeout": {"default_seconds": 1.5}}, "/shop.v1.Orders/Get": {}},
            "routes": [
                {
                    "name": "canary",
                    "match": {"methods": ["/shop.v1.Orders/Get"], "headers": {"x-a": {"present": True}}},
                    "to": [{"service": "orders", "weight": 3, "labels": {"zone": "b", "version": "2"}}],
                    "mirror": {"service": "shadow", "percent": 0.5},
                }
            ],
            "edge": {"limits": {"max_headers": 9}, "protection": {"max_connections": 7}},
        },
        LIMITS,
    )
    assert found.defaults.timeout == TimeoutOptions(max_seconds=60)
    assert found.services["orders"].retry == RetryOptions(attempts=2, on=frozenset({"UNAVAILABLE"}))
    assert found.exposure == {"orders": True}
    assert found.methods["shop.v1.Orders", "*"].timeout == TimeoutOptions(default_seconds=1.5)
    (only,) = found.routes
    assert only.to == (Destination("orders", 3, (("version", "2"), ("zone", "b"))),)
    assert only.mirror == MirrorRule(Destination("shadow"), 0.5)
    assert (only.where, only.name, only.methods) == ("routes[0]", "canary", (("shop.v1.Orders", "Get"),))
    assert (found.limits, found.protection) == ({"max_headers": 9}, {"max_connections": 7})
    assert read({}, LIMITS) == Document()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "the document: must be a mapping"),
        ({"x": 1}, "x: is not known here"),
        ({"services": []}, "services: must be a mapping"),
        ({"services": {"Orders": {}}}, "services.Orders: is no name of a service"),
        ({"services": {"a": {"retry": {"attempts": "3"}}}}, "services.a.retry.attempts: must be a whole number"),
        ({"services": {"a": {"retry": {"attempts": True}}}}, "services.a.retry.attempts: must be a whole number"),
        ({"services": {"a": {"retry": {"attempts": 6}}}}, "services.a.retry.attempts: must be from 1 to 5"),
        ({"services": {"a": {"rate_limit": {}}}}, "services.a.rate_limit.per_second: is missing"),
        ({"services": {"a": {"breaker": {"failure_rate": 1e400}}}}, "services.a.breaker.failure_rate: must be a"),
        ({"services": {"a": {"timeout": {"max_seconds": 10**400}}}}, "services.a.timeout.max_seconds: must be a"),
        ({"services": {"a": {"exposure": "open"}}}, "services.a.exposure: must be one of public, internal"),
        ({"services": {"mesh-control": {"exposure": "public"}}}, "services.mesh-control.exposure: mesh-control is the"),
        ({"methods": {"a.B/*": {"outlier": {}}}}, 'methods["a.B/*"].outlier: is not known here'),
        ({"methods": {"a.B": {}}}, 'methods["a.B"]: \'a.B\' is not /pkg.Service/Method or pkg.Service/*'),
        ({"methods": {"a.B/C": {}, "/a.B/C": {}}}, 'methods["/a.B/C"]: the same methods are there twice'),
        ({"routes": {}}, "routes: must be a list"),
        ({"routes": [{"to": TO}]}, "routes[0].match: is missing"),
        ({"routes": [{"match": {}}]}, "routes[0].match: a route without destinations (to) has to name its methods"),
        (route(to=[{"service": "a", "weight": 0}]), "routes[0].to: the weights add up to 0"),
        (route(to=[{"service": "a"}, {"service": "a"}]), "routes[0].to: the same destination is there twice"),
        (route(to=[{"service": "mesh-edge"}]), "routes[0].to[0].service: calls would go round"),
        (route(to=[{"weight": 1}]), "routes[0].to[0].service: is missing"),
        (route(to=[{"service": "a", "weight": 10**9}]), "routes[0].to[0].weight: must be from 0 to 1000000"),
        (route(sticky="x-user"), "routes[0].sticky: there are no two destinations"),
        (route(mirror={"service": "orders"}), "routes[0].mirror: the calls would be mirrored to where they go"),
        (route(mirror={"service": "mesh-edge"}), "routes[0].mirror.service: calls would go round"),
        (route(mirror={"service": "a", "percent": 101}), "routes[0].mirror.percent: must be from 0 to 100"),
        (route(match={"headers": {}}), "routes[0].match.headers: names no header"),
        (route(match={"headers": {"X-A": {"exact": ""}}}), "routes[0].match.headers.X-A: is no name of metadata"),
        (route(match={"headers": {"x-bin": {"exact": ""}}}), "routes[0].match.headers.x-bin: is binary metadata"),
        (route(match={"headers": {"x": {"exact": "", "prefix": "a"}}}), "routes[0].match.headers.x: must be one of"),
        (route(match={"headers": {"x": {"prefix": ""}}}), "routes[0].match.headers.x.prefix: is empty"),
        (route(match={"headers": {"x": {"regex": "(a"}}}), "routes[0].match.headers.x.regex: '(a' is no regular"),
        (route(match={"headers": {"x": {"regex": "(?=a)"}}}), "routes[0].match.headers.x.regex: '(?=a)' is no regular"),
        (route(match={"headers": {"x": {"regex": "a" * 257}}}), "routes[0].match.headers.x.regex: must have at most"),
        (route(match={"headers": {"x": {"regex": "\u20ac"}}}), "routes[0].match.headers.x.regex: metadata is ASCII"),
        ({"edge": {"limits": {"max_message_bytes": 2**29}}}, "edge.limits.max_message_bytes: must be at most 16777216"),
        ({"edge": {"protection": {"max_connections": 0}}}, "edge.protection.max_connections: must be from 1"),
        (
            {"services": {"a": {"limits": {"max_header_bytes": 2**20}}}},
            "services.a.limits.max_header_bytes: must be at most 16384, what the edge's own options allow",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named_by_its_path(content: Any, sentence: str) -> None:
    with pytest.raises(PolicyError) as raised:
        read(content, LIMITS)
    assert str(raised.value).startswith(sentence)


def test_a_mirror_may_go_to_other_instances_of_the_same_service() -> None:
    to = [{"service": "orders", "labels": {"version": "1"}}]
    read(route(to=to, mirror={"service": "orders", "labels": {"version": "2"}}), LIMITS)
    with pytest.raises(PolicyError):
        read(route(to=to, mirror={"service": "orders", "labels": {"zone": "a"}}), LIMITS)


_SCALARS = st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=8)
_KEYS = st.sampled_from(
    sorted({*schema.document()["properties"], *schema.document()["$defs"], "orders", "/a.B/C", "to"})
)


@given(st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4)))
def test_whatever_comes_is_read_or_refused(content: Any) -> None:
    said = ""
    try:
        read(content, LIMITS)
    except PolicyError as error:
        said = str(error)
    assert not said or ": " in said
    assert len(said) < 1500


def _documents() -> st.SearchStrategy[dict[str, Any]]:
    """Return documents that are mostly right, by the schema's own words."""
    seconds = st.sampled_from([0.001, 0.5, 1, 60, 86400, 0, -1, 10**6])
    groups = st.fixed_dictionaries(
        {},
        optional={
            "timeout": st.fixed_dictionaries({"max_seconds": seconds}),
            "retry": st.fixed_dictionaries({"attempts": st.integers(0, 6)}, optional={"per_try_seconds": seconds}),
            "limits": st.fixed_dictionaries({"max_calls_in_flight": st.integers(0, 5)}),
            "balancer": st.fixed_dictionaries({"kind": st.sampled_from(["round_robin", "peak_ewma", "best"])}),
        },
    )
    names = st.sampled_from(["orders", "a", "mesh-edge", "Bad"])
    to = st.lists(st.fixed_dictionaries({"service": names, "weight": st.integers(-1, 2)}), min_size=1, max_size=3)
    match = st.fixed_dictionaries({}, optional={"methods": st.lists(st.sampled_from(["/a.B/C", "a.B/*", "a"]))})
    routes = st.lists(st.fixed_dictionaries({"match": match, "to": to}), max_size=2)
    optional = {"services": st.dictionaries(names, groups, max_size=2), "defaults": groups, "routes": routes}
    return st.fixed_dictionaries({}, optional=optional)


CHECKER = Schema(schema.text())


@given(_documents())
def test_what_the_edge_takes_the_schema_takes(content: dict[str, Any]) -> None:
    """Else an edge could run what nobody could publish; the other way round is what `read` is for."""
    try:
        read(content, LIMITS)
    except PolicyError:
        return
    assert CHECKER.violations(json.loads(json.dumps(content))) == []
