from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.config.paths import format_path
from services.config.errors import InvalidError
from services.config.layers import Layer
from services.config.schema import Schema, check_all

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["port"],
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "properties": {
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "level": {"enum": ["info", "debug"]},
        "password": {"type": "string", "minLength": 20, "pattern": "^z"},
        "routes": {"type": "array", "maxItems": 1, "items": {"$ref": "#/$defs/route"}},
        "either": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    },
    "$defs": {"route": {"type": "object", "required": ["to"], "properties": {"to": {"pattern": "^[a-z]+$"}}}},
}


def found(document: dict[str, Any], schema: dict[str, Any] = SCHEMA) -> dict[str, str]:
    return {format_path(path): what for path, what in Schema(json.dumps(schema)).violations(document)}


@pytest.mark.parametrize(
    ("document", "violations"),
    [
        ({"port": 80, "x-any": 1, "level": "info", "routes": [{"to": "a"}], "either": 1}, {}),
        ({}, {"port": "is missing"}),
        ({"port": "80"}, {"port": "must be of type integer"}),
        ({"port": 0}, {"port": "must be at least 1"}),
        ({"port": 70000}, {"port": "must be at most 65535"}),
        ({"port": 1, "prot": 1}, {"prot": "is not known here"}),
        ({"port": 1, "level": "loud"}, {"level": 'must be one of "info", "debug"'}),
        ({"port": 1, "routes": [{}]}, {"routes[0].to": "is missing"}),
        ({"port": 1, "routes": [{"to": "A"}]}, {"routes[0].to": 'must match "^[a-z]+$"'}),
        ({"port": 1, "routes": [{"to": "a"}] * 2}, {"routes": "must have at most 1 items"}),
        ({"port": 1, "either": []}, {"either": "must satisfy exactly one of the forms that the schema allows (oneOf)"}),
        # Of a secret the type is known, and nothing else.
        ({"port": 1, "password": {"$masked": "0" * 16}}, {}),
        ({"port": {"$masked": "0" * 16}}, {"port": "must be of type integer"}),
    ],
)
def test_what_is_wrong_and_where(document: dict[str, Any], violations: dict[str, str]) -> None:
    assert found(document) == violations


def test_every_named_service_and_environment_is_checked_and_the_layer_blamed() -> None:
    layers: dict[Layer, dict[str, Any]] = {
        Layer(): {"level": "info"},
        Layer("prod"): {"port": 80},
        Layer("dev"): {"port": 8080},
        Layer("dev", "orders"): {"port": 99999},
        Layer("", "orders", "orders-1"): {"level": "loud"},
    }
    violations = check_all(Schema(json.dumps(SCHEMA)), layers)
    assert [(one.path, str(one.layer)) for one in violations] == [
        ("port", "service orders in environment dev"),
        ("level", "instance orders/orders-1"),
    ]
    assert (
        check_all(
            Schema(json.dumps(SCHEMA)), {**layers, Layer("dev", "orders"): {}, Layer("", "orders", "orders-1"): {}}
        )
        == []
    )


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"type": "intger"}, "schema, type"),
        ({"properties": {"a": {"minimum": "x"}}}, "schema, properties.a.minimum"),
        ({"$ref": "https://example.org/schema"}, "schema, $ref"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "schema"),
        ({"$ref": "#"}, "schema"),
    ],
)
def test_no_schema(schema: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Schema(json.dumps(schema))
    assert [violation.where for violation in caught.value.violations] == [where]


def test_a_reference_that_leads_to_itself_ends() -> None:
    loop = {"properties": {"a": {"$ref": "#/properties/a"}}}
    assert found({"a": 1}, loop) == {"": "the schema has a $ref that leads to itself"}
