"""Binary operators: of scalars, of a vector and a scalar, and of two vectors whose series find each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from services.metrics.promql.data import Bools, Floats, Ints, Vector, merged
from services.metrics.promql.errors import EvaluationError
from services.metrics.promql.labels import NAME, Labels, drop, get, keep, replaced, text, without_name
from services.metrics.promql.tree import Binary, Cardinality, Matching

ARITHMETIC: dict[str, Callable[[Floats, Floats], Floats]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": np.fmod,
    "^": np.power,
    "atan2": np.arctan2,
}
# These results keep the name of the series: comparisons that filter, and, as in Prometheus, atan2.
_NAMED = frozenset({"atan2"})
COMPARISONS: dict[str, Callable[[Floats, Floats], Bools]] = {
    "==": np.equal,
    "!=": np.not_equal,
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
}


def binary(node: Binary, left: Vector | Floats, right: Vector | Floats) -> Vector | Floats:
    """Return what the operator makes of both sides."""
    if not isinstance(left, Vector):
        if not isinstance(right, Vector):
            return _values(node.op, left, right)
        return _with_scalar(node, right, left, vector_first=False)
    if not isinstance(right, Vector):
        return _with_scalar(node, left, right, vector_first=True)
    if node.op in {"and", "or", "unless"}:
        return _set(node, left, right)
    return _matched(node, left, right)


def _values(op: str, left: Floats, right: Floats) -> Floats:
    if op in ARITHMETIC:
        return ARITHMETIC[op](left, right)
    return COMPARISONS[op](left, right).astype(np.float64)


def _with_scalar(node: Binary, vector: Vector, scalar: Floats, *, vector_first: bool) -> Vector:
    sides = (vector.values, scalar) if vector_first else (scalar, vector.values)
    if node.op in _NAMED:
        return Vector(vector.labels, np.asarray(_values(node.op, *sides)), vector.present)
    if node.op in ARITHMETIC or node.bool_:
        return vector.with_values(np.asarray(_values(node.op, *sides)))
    kept = vector.present & COMPARISONS[node.op](*sides)
    return Vector(vector.labels, vector.values, kept).inhabited()


def _signatures(matching: Matching, labels: list[Labels]) -> list[Labels]:
    """Return the labels by which series find each other."""
    if matching.on:
        return [keep(one, matching.labels) for one in labels]
    names = frozenset((*matching.labels, NAME))
    return [drop(one, names) for one in labels]


def _set(node: Binary, left: Vector, right: Vector) -> Vector:
    rows: dict[Labels, int] = {}
    of_left = [rows.setdefault(one, len(rows)) for one in _signatures(node.matching, left.labels)]
    of_right = [rows.setdefault(one, len(rows)) for one in _signatures(node.matching, right.labels)]
    steps = left.present.shape[1]

    def presence(members: list[int], present: Bools) -> Bools:
        found = np.zeros((len(rows), steps), np.bool_)
        np.logical_or.at(found, members, present)
        return found

    if node.op == "or":
        extra = right.present & ~presence(of_left, left.present)[of_right]
        both = Vector(
            [*left.labels, *right.labels],
            np.concatenate((left.values, right.values)),
            np.concatenate((left.present, extra)),
        )
        return merged(both).inhabited()
    there = presence(of_right, right.present)[of_left]
    return Vector(left.labels, left.values, left.present & (there if node.op == "and" else ~there)).inhabited()


def _matched(node: Binary, left: Vector, right: Vector) -> Vector:
    matching = node.matching
    # "One" is the side that has at most one series for each signature.
    swapped = matching.cardinality is Cardinality.ONE_TO_MANY
    many, one = (right, left) if swapped else (left, right)
    if not many.labels or not one.labels:
        return Vector.empty(many.present.shape[1])
    found: dict[Labels, list[int]] = {}
    for row, signature in enumerate(_signatures(matching, one.labels)):
        found.setdefault(signature, []).append(row)
    _must_be_single(found, one, np.asarray(many.present.any(axis=0)), "left" if swapped else "right")
    pairs = [
        (i, j)
        for i, signature in enumerate(_signatures(matching, many.labels))
        for j in found.get(signature, ())
        if (many.present[i] & one.present[j]).any()
    ]
    if not pairs:
        return Vector.empty(many.present.shape[1])
    rows, partners = (np.array(side, np.int64) for side in zip(*pairs, strict=True))
    values, kept = _combined(node, many, one, rows, partners, swapped=swapped)
    if matching.cardinality is Cardinality.ONE_TO_ONE:
        _must_be_unique(matching, many, rows, kept)
    labels = [_result(node, many.labels[i], one.labels[j]) for i, j in pairs]
    try:
        return merged(Vector(labels, values, kept)).inhabited()
    except EvaluationError as error:
        if matching.cardinality is Cardinality.ONE_TO_ONE:
            raise
        raise EvaluationError("multiple matches for labels: grouping labels must ensure unique matches") from error


def _combined(
    node: Binary, many: Vector, one: Vector, rows: Ints, partners: Ints, *, swapped: bool
) -> tuple[Floats, Bools]:
    """Return the results of pairs of series, and where there are any."""
    mine, others = many.values[rows], one.values[partners]
    sides = (others, mine) if swapped else (mine, others)
    present = many.present[rows] & one.present[partners]
    if node.op in ARITHMETIC:
        return ARITHMETIC[node.op](*sides), present
    holds = COMPARISONS[node.op](*sides)
    if node.bool_:
        return holds.astype(np.float64), present
    return sides[0], present & holds


def _result(node: Binary, many: Labels, one: Labels) -> Labels:
    matching = node.matching
    nameless = (node.op in ARITHMETIC and node.op not in _NAMED) or node.bool_
    labels = without_name(many) if nameless else many
    if matching.cardinality is Cardinality.ONE_TO_ONE:
        labels = keep(labels, matching.labels) if matching.on else drop(labels, matching.labels)
    if matching.include:
        labels = replaced(labels, [(name, get(one, name)) for name in matching.include])
    return labels


def _must_be_single(found: dict[Labels, list[int]], side: Vector, matters: Bools, which: str) -> None:
    """Raise EvaluationError if two series have one signature at a step where the other side has any."""
    for signature, rows in found.items():
        if len(rows) > 1 and (side.present[rows].sum(axis=0)[matters] > 1).any():
            first, second = (text(side.labels[row]) for row in rows[:2])
            raise EvaluationError(
                f"found duplicate series for the match group {text(signature)} on the {which} hand-side of the "
                f"operation: [{second}, {first}];many-to-many matching not allowed: matching labels must be unique on "
                "one side"
            )


def _must_be_unique(matching: Matching, many: Vector, rows: Ints, kept: Bools) -> None:
    """Raise EvaluationError if two series matched the same one at one step."""
    groups: dict[Labels, list[int]] = {}
    for place, signature in enumerate(_signatures(matching, [many.labels[row] for row in rows])):
        groups.setdefault(signature, []).append(place)
    for places in groups.values():
        if len(places) > 1 and (kept[places].sum(axis=0) > 1).any():
            raise EvaluationError(
                "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
            )
