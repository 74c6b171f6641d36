"""Merging against the simplest model there is: RFC 7386, one layer after the other."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.config.diff import diff
from services.config.layers import Layer, Target, merge, order, stack, targets
from services.config.text import canonical
from tests.unit.services.config.documents import documents


def patched(target: Any, patch: Any) -> Any:
    """Return what RFC 7386 says."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = patched(result.get(key), value)
    return result


def at(document: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


def leaves(value: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if not isinstance(value, dict) or (not value and path):
        return {path}
    return {leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))}


@given(st.lists(documents(), max_size=5))
def test_merge_is_one_patch_after_the_other(layers: list[dict[str, Any]]) -> None:
    model: Any = {}
    for layer in layers:
        model = patched(model, layer)
    before = canonical(layers)
    merged = merge(layers)
    assert merged.document == model
    assert canonical(layers) == before  # nobody's document was changed

    # Every leaf has one origin; that layer says what the leaf says, and no higher one says anything else there.
    origins = {origin.path: origin.layer for origin in merged.origins}
    assert origins.keys() == leaves(model)
    for path, number in origins.items():
        without: Any = {}
        for layer in layers[number:]:
            without = patched(without, layer)
        if at(model, path) != {}:
            assert at(without, path) == at(model, path)
            later: Any = {}
            for layer in layers[number + 1 :]:
                later = patched(later, layer)
            assert path not in leaves(later)


def test_a_secret_replaces_and_is_replaced_as_a_whole() -> None:
    secret = {"$masked": "0123456789abcdef"}
    merged = merge([{"a": {"x": 1}, "b": secret}, {"a": secret, "b": {"y": 2}}])
    assert merged.document == {"a": secret, "b": {"y": 2}}
    assert [(origin.path, origin.layer) for origin in merged.origins] == [(("a",), 1), (("b", "y"), 1)]


def test_the_order_of_layers() -> None:
    target = Target("orders", "prod", "orders-1")
    wanted = [
        Layer(),
        Layer(environment="prod"),
        Layer(service="orders"),
        Layer(environment="prod", service="orders"),
        Layer(service="orders", instance="orders-1"),
    ]
    assert list(order(target)) == wanted
    assert stack(target, dict.fromkeys([*wanted[::2], Layer(service="other")], 0)) == [(one, 0) for one in wanted[::2]]
    assert [str(layer) for layer in wanted] == [
        "defaults",
        "environment prod",
        "service orders",
        "service orders in environment prod",
        "instance orders/orders-1",
    ]


def test_whom_an_application_is_for() -> None:
    assert targets([Layer()]) == [Target()]
    found = targets([Layer(), Layer("prod"), Layer("dev", "a"), Layer("", "a"), Layer("", "a", "a-1")])
    assert found == [Target("a", "dev"), Target("a", "prod"), Target("a", "dev", "a-1"), Target("a", "prod", "a-1")]


@given(documents(), documents())
def test_diff_tells_exactly_what_differs(before: dict[str, Any], after: dict[str, Any]) -> None:
    found = diff(before, after)
    assert (not found) == (canonical(before) == canonical(after))
    assert all(one.before != one.after for one in found)
    assert len({one.path for one in found}) == len(found)
    assert [(one.path, one.after, one.before) for one in diff(after, before)] == [
        (one.path, one.before, one.after) for one in found
    ]


def test_diff_looks_into_mappings_only() -> None:
    found = diff({"a": {"b": 1, "c": [1]}, "x": 1}, {"a": {"b": 1.5, "c": [1, 2]}, "y": {"z": {}}})
    assert [(one.path, one.before, one.after) for one in found] == [
        ("a.b", "1", "1.5"),
        ("a.c", "[1]", "[1,2]"),
        ("x", "1", None),
        ("y.z", None, "{}"),
    ]
