"""Precedence, against the sentence of the schema: whole groups, the most specific place first."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mesh.edge.policy.precedence import OWN, origins, resolve
from mesh.resilience.policy import TimeoutOptions
from proxy.call.limits import Limits
from proxy.policy.document import read

METHOD = "shop.v1.Orders/Get"
# Most specific first: where it stands in the document, and how it is called there.
PLACES = ("route", "method", "any_method", "service", "defaults")
WHERE = ("routes[0]", 'methods["/shop.v1.Orders/Get"]', 'methods["shop.v1.Orders/*"]', "services.orders", "defaults")


def document(groups: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "routes": [{"match": {}, "to": [{"service": "orders"}], **groups["route"]}],
        "methods": {"/shop.v1.Orders/Get": groups["method"], "shop.v1.Orders/*": groups["any_method"]},
        "services": {"orders": groups["service"], "others": {"timeout": {"max_seconds": 9999}}},
        "defaults": groups["defaults"],
    }


@given(st.sets(st.sampled_from(PLACES)), st.sets(st.sampled_from(PLACES)))
def test_each_group_comes_whole_from_the_most_specific_place(timeouts: set[str], limits: set[str]) -> None:
    groups: dict[str, dict[str, Any]] = {place: {} for place in PLACES}
    for place in timeouts:
        groups[place]["timeout"] = {"max_seconds": 1 + PLACES.index(place)}
    for place in limits:
        groups[place]["limits"] = {"max_calls_in_flight": 1 + PLACES.index(place)}
    groups["defaults"].setdefault("timeout", {"default_seconds": 7})
    found = read(document(groups), Limits())
    policy = resolve(found, "orders", METHOD, found.routes[0])
    assert policy is not None
    first = next((PLACES.index(place) for place in PLACES if place in timeouts), None)
    assert policy.timeout == (TimeoutOptions(default_seconds=7) if first is None else TimeoutOptions(None, 1 + first))
    at = next((PLACES.index(place) for place in PLACES if place in limits), None)
    assert (policy.limits.max_calls_in_flight if policy.limits else None) == (None if at is None else 1 + at)
    assert policy.limits_name == ("" if at is None else WHERE[at])
    told = origins(found, "orders", METHOD, found.routes[0])
    assert told["timeout"] == f"{WHERE[-1 if first is None else first]}.timeout"
    assert told["limits"] == (OWN if at is None else f"{WHERE[at]}.limits")
    assert told["retry"] == OWN


def test_who_is_not_concerned_has_no_policy() -> None:
    found = read({"services": {"orders": {"timeout": {"max_seconds": 1}}}, "methods": {"a.B/*": {}}}, Limits())
    assert resolve(found, "payments", METHOD) is None
    assert resolve(found, "orders", "") is not None
    assert resolve(found, "payments", "a.B/C") is None
