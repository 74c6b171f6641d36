"""Aggregations: many series to few, at every step."""

# ruff: noqa: ARG001, ARG005 - all have one signature, whatever they need of it

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from services.metrics.promql.data import Floats, Ints, Vector, merged
from services.metrics.promql.errors import EvaluationError, LimitError
from services.metrics.promql.labels import NAME, Labels, drop, keep, replaced
from services.metrics.promql.numbers import exchanged, formatted
from services.metrics.promql.over_time import picked
from services.metrics.promql.tree import Aggregation

# Series that count_values may make.
MAX_COUNTED = 100_000


def aggregate(node: Aggregation, vector: Vector, parameter: Floats | str | None) -> Vector:
    """Return the aggregation of a vector."""
    if not vector.labels:
        return vector
    groups, members = _groups(node, vector.labels)
    if node.op in {"topk", "bottomk"}:
        assert isinstance(parameter, np.ndarray)
        return _extreme(vector, members, parameter, top=node.op == "topk")
    if node.op == "count_values":
        assert isinstance(parameter, str)
        return _counted(vector, groups, members, parameter)
    order = np.argsort(members, kind="stable")
    begin = np.searchsorted(members[order], np.arange(len(groups)))
    values, present = vector.values[order], vector.present[order]
    count = np.add.reduceat(present, begin, axis=0, dtype=np.int64)
    here = count > 0
    if node.op == "quantile":
        assert isinstance(parameter, np.ndarray)
        made = _quantile(values, present, begin, count, parameter)
    else:
        made = _SIMPLE[node.op](values, present, begin, count)
    return Vector(groups, made, here).inhabited()


def _groups(node: Aggregation, labels: list[Labels]) -> tuple[list[Labels], Ints]:
    """Return the groups, and which of them each series belongs to."""
    names = frozenset((*node.labels, NAME) if node.without else node.labels)
    reduce = drop if node.without else keep
    found: dict[Labels, int] = {}
    if not node.without and not names:
        return [()], np.zeros(len(labels), np.int64)
    members = [found.setdefault(reduce(one, names), len(found)) for one in labels]
    return list(found), np.array(members, np.int64)


Simple = Callable[[Floats, np.typing.NDArray[np.bool_], Ints, Ints], Floats]


def _sum(values: Floats, present: np.typing.NDArray[np.bool_], begin: Ints, count: Ints) -> Floats:
    total: Floats = np.add.reduceat(np.where(present, values, 0.0), begin, axis=0)
    return total


def _avg(values: Floats, present: np.typing.NDArray[np.bool_], begin: Ints, count: Ints) -> Floats:
    means = _sum(values, present, begin, count) / count
    wide = np.isinf(means)
    if wide.any():  # perhaps only their sum is too large to be a number
        finite = np.logical_and.reduceat(~present | np.isfinite(values), begin, axis=0)
        small = _sum(values / 2.0**64, present, begin, count) / count * 2.0**64
        means = np.where(wide & finite, small, means)
    return means


def _min(values: Floats, present: np.typing.NDArray[np.bool_], begin: Ints, count: Ints) -> Floats:
    found: Floats = np.fmin.reduceat(np.where(present, values, np.nan), begin, axis=0)
    return found


def _max(values: Floats, present: np.typing.NDArray[np.bool_], begin: Ints, count: Ints) -> Floats:
    found: Floats = np.fmax.reduceat(np.where(present, values, np.nan), begin, axis=0)
    return found


def _variance(values: Floats, present: np.typing.NDArray[np.bool_], begin: Ints, count: Ints) -> Floats:
    means = _avg(values, present, begin, count)
    sizes = np.diff(np.append(begin, len(values)))
    off = values - np.repeat(means, sizes, axis=0)
    return _sum(off * off, present, begin, count) / count


_SIMPLE: dict[str, Simple] = {
    "sum": _sum,
    "avg": _avg,
    "min": _min,
    "max": _max,
    "count": lambda values, present, begin, count: count.astype(np.float64),
    "group": lambda values, present, begin, count: np.ones(count.shape),
    "stdvar": _variance,
    "stddev": lambda *given: np.sqrt(_variance(*given)),
}


def _quantile(values: Floats, present: np.typing.NDArray[np.bool_], begin: Ints, count: Ints, q: Floats) -> Floats:
    """Return the quantiles; NaN is below all numbers, and who is not there above."""
    made = np.full(count.shape, np.nan)
    bounds = np.append(begin, len(values))
    steps = np.arange(values.shape[1])
    for group in range(len(begin)):
        rows = slice(bounds[group], bounds[group + 1])
        rank = np.where(present[rows], np.where(np.isnan(values[rows]), 0, 1), 2)
        key = np.where(rank == 1, values[rows], 0.0)
        order = np.lexsort((key, rank), axis=0)
        ordered = np.take_along_axis(values[rows], order, axis=0)
        here = count[group] > 0
        flat = np.ascontiguousarray(ordered.T).ravel()
        height = ordered.shape[0]
        made[group, here] = picked(flat, (steps * height)[here], count[group, here].astype(np.float64), q[here])
    return made


def _extreme(vector: Vector, members: Ints, parameter: Floats, *, top: bool) -> Vector:
    """Return the k largest or smallest series of each group at each step, as they are, the first one first."""
    if np.isnan(parameter).any() or (np.abs(parameter) >= 2.0**63).any():
        bad = parameter[np.isnan(parameter) | (np.abs(parameter) >= 2.0**63)][0]
        raise EvaluationError(f"Scalar value {exchanged(float(bad))} overflows int64")
    k = np.trunc(parameter).astype(np.int64)
    values = -vector.values if top else vector.values
    # First who is there, then numbers before NaN, then by value.
    state = np.where(vector.present, np.where(np.isnan(values), 1, 0), 2)
    kept = np.zeros(vector.present.shape, np.bool_)
    ranks = np.zeros(vector.present.shape, np.int64)
    for group in np.unique(members):
        rows = np.flatnonzero(members == group)
        order = np.lexsort((np.where(state[rows] == 0, values[rows], 0.0), state[rows]), axis=0)
        place = np.empty_like(order)
        np.put_along_axis(place, order, np.arange(len(rows))[:, None], axis=0)
        ranks[rows] = place
        kept[rows] = (place < k[None, :]) & vector.present[rows]
    chosen = Vector(vector.labels, vector.values, kept)
    if vector.values.shape[1] == 1:
        rows = np.flatnonzero(kept[:, 0])
        return chosen.pick(rows[np.lexsort((ranks[rows, 0], members[rows]))])
    return chosen.inhabited()


def _counted(vector: Vector, groups: list[Labels], members: Ints, label: str) -> Vector:
    """Return how many series of each group have each value, which is the text of a label."""
    rows: dict[Labels, int] = {}
    cells: list[tuple[int, int]] = []
    texts: dict[float, str] = {}
    for series, step in zip(*np.nonzero(vector.present), strict=True):
        value = float(vector.values[series, step])
        shown = texts.get(value)
        if shown is None:
            shown = texts[value] = formatted(value)
        labels = replaced(groups[members[series]], [(label, shown)])
        cells.append((rows.setdefault(labels, len(rows)), int(step)))
        if len(rows) > MAX_COUNTED:
            raise LimitError(f"count_values() would make more than {MAX_COUNTED} series")
    counts = np.zeros((len(rows), vector.values.shape[1]))
    if cells:
        np.add.at(counts, tuple(np.array(cells).T), 1.0)
    return merged(Vector(list(rows), counts, counts > 0))
