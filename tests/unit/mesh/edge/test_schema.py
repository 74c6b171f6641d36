"""The published schema says what the options' classes say."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mesh.edge import schema
from mesh.edge.policy.document import GROUPS
from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.policy import (
    BALANCERS,
    RATE_LIMIT_KEYS,
    BalancerOptions,
    LimitOptions,
    OutlierOptions,
    RateLimitOptions,
    RetryOptions,
    TimeoutOptions,
)
from proxy.engines.options import Protection
from services.config.schema import Schema

DOCUMENT = schema.document()
CLASSES = {
    "timeout": TimeoutOptions,
    "retry": RetryOptions,
    "rate_limit": RateLimitOptions,
    "balancer": BalancerOptions,
    "limits": LimitOptions,
    "breaker": BreakerOptions,
    "outlier": OutlierOptions,
    "protection": Protection,
}


@pytest.mark.parametrize("group", CLASSES)
def test_each_option_has_its_entry(group: str) -> None:
    described = DOCUMENT["$defs"][group]
    fields = {field.name: field for field in dataclasses.fields(CLASSES[group])}
    assert described["properties"].keys() == fields.keys()
    assert not described["additionalProperties"]
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    assert set(described.get("required", ())) == {name for name in required if name != "on"}


def test_the_places_have_the_groups_that_they_can_have() -> None:
    of_calls = set(GROUPS) - {"breaker", "outlier"}
    places = {name: set(DOCUMENT["$defs"][name]["properties"]) for name in ("service", "defaults", "method", "route")}
    assert places["service"] == {*GROUPS, "exposure"}
    assert places["defaults"] == set(GROUPS)
    assert places["method"] == of_calls
    assert places["route"] == {*of_calls, "name", "match", "to", "sticky", "mirror"}


def test_choices_are_those_of_the_code() -> None:
    defined = DOCUMENT["$defs"]
    assert tuple(defined["balancer"]["properties"]["kind"]["enum"]) == BALANCERS
    assert tuple(defined["rate_limit"]["properties"]["key"]["enum"]) == RATE_LIMIT_KEYS


def test_the_config_service_takes_it_and_names_what_is_wrong() -> None:
    checker = Schema(schema.text())
    wrong: dict[str, Any] = {
        "services": {"orders": {"retry": {"attempts": 9}, "colour": 1}},
        "routes": [{"match": {"listener": "outside"}, "to": [{"service": "x", "weight": -1}]}],
        "methods": {"nonsense": {}},
    }
    found = {".".join(map(str, path)): what for path, what in checker.violations(wrong)}
    assert found == {
        "services.orders.retry.attempts": "must be at most 5",
        "services.orders.colour": "is not known here",
        "routes.0.match.listener": 'must be one of "public", "internal"',
        "routes.0.to.0.weight": "must be at least 0",
        "methods.nonsense": f"is a key that must match {found['methods.nonsense'].partition('match ')[2]}",
    }
    assert checker.violations({}) == []


def test_a_version_is_a_number_in_the_schema() -> None:
    assert schema.version(schema.text()) == DOCUMENT["version"] >= 1
    assert [schema.version(text) for text in ("{", "[]", "{}", '{"version": "2"}')] == [0] * 4
