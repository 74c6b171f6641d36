"""All functions by name. Each takes the values of its arguments; how many and of what kind the parser has checked."""

# ruff: noqa: ARG001, ARG005 - all have one signature, whatever they need of it

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from services.metrics.promql import histogram, maths, over_time, rates, regression, relabel
from services.metrics.promql.data import Floats, Steps, Value, Vector, Windows
from services.metrics.promql.errors import EvaluationError
from services.metrics.promql.labels import NAME, Labels, from_mapping
from services.metrics.promql.matchers import Op
from services.metrics.promql.tree import Call, Node, Range, Selector

# The steps, the call itself, and its arguments.
Run = Callable[[Steps, Call, list[Any]], Value]


@dataclass(frozen=True, slots=True)
class Function:
    run: Run
    # Which arguments must be strings, which the parser lets pass as any expression.
    texts: tuple[int, ...] = ()


def _scalar(number: float, steps: Steps) -> Floats:
    return np.full(len(steps), number)


def _of_windows(run: Callable[[Windows], Vector]) -> Function:
    return Function(lambda steps, call, arguments: run(arguments[0]))


def _of_values(run: Callable[[Floats], Floats]) -> Function:
    def apply(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
        vector: Vector = arguments[0]
        return vector.with_values(run(vector.values))

    return Function(apply)


def _of_time(run: Callable[[Floats], Floats]) -> Function:
    def apply(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
        if not arguments:
            return _constant(steps, run(steps.times / 1000))
        vector: Vector = arguments[0]
        values = run(vector.values)
        return vector.with_values(np.where(np.isfinite(vector.values), values, np.nan))

    return Function(apply)


def _constant(steps: Steps, values: Floats, labels: Labels = ()) -> Vector:
    return Vector([labels], values[None, :], np.ones((1, len(steps)), np.bool_))


def _round(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
    vector: Vector = arguments[0]
    nearest = arguments[1] if len(arguments) > 1 else _scalar(1.0, steps)
    return vector.with_values(maths.rounded(vector.values, nearest))


def _clamp(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
    vector: Vector = arguments[0]
    low, high = arguments[1:]
    values = np.maximum(low, np.minimum(high, vector.values))
    return vector.with_values(values, vector.present & ~(high < low)[None, :]).inhabited()


def _clamp_one(bound: Callable[[Floats, Floats], Floats]) -> Function:
    def apply(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
        vector: Vector = arguments[0]
        return vector.with_values(bound(arguments[1], vector.values))

    return Function(apply)


def _to_scalar(steps: Steps, call: Call, arguments: list[Any]) -> Floats:
    vector: Vector = arguments[0]
    total = np.where(vector.present, vector.values, 0.0).sum(axis=0)
    return np.where(vector.present.sum(axis=0) == 1, total, np.nan)


def _to_vector(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
    return _constant(steps, arguments[0])


def _absent(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
    value: Vector | Windows = arguments[0]
    here = value.present if isinstance(value, Vector) else value.counts > 0
    missing = np.logical_not(here.any(axis=0))
    labels = _selected(call.arguments[0])
    return Vector([labels], np.ones((1, len(steps))), np.asarray(missing)[None, :]).inhabited()


def _selected(node: Node) -> Labels:
    """Return the labels that a series would have for sure, had the selector one."""
    if isinstance(node, Range):
        node = node.selector
    if not isinstance(node, Selector) or len(node.matchers) != 1:
        return ()
    found: dict[str, str] = {}
    seen: set[str] = set()
    for matcher in node.matchers[0]:
        if matcher.name == NAME:
            continue
        if matcher.op is Op.EQUAL and matcher.name not in seen:
            found[matcher.name] = matcher.value
            seen.add(matcher.name)
        else:
            found.pop(matcher.name, None)
    return from_mapping(found)


def _sorted(steps: Steps, call: Call, arguments: list[Any], *, sign: int) -> Vector:
    """Order by value where there is one step; a range has no order."""
    vector: Vector = arguments[0]
    if len(steps) != 1:
        return vector
    shown = vector.inhabited()
    values = sign * shown.values[:, 0]
    return shown.pick(np.lexsort((values, np.isnan(values))))  # NaN comes last either way


def _quantile_over_time(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
    return over_time.quantiles(arguments[1], arguments[0])


def _holt_winters(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
    for name, factors in (("smoothing", arguments[1]), ("trend", arguments[2])):
        if not ((factors > 0) & (factors < 1)).all():
            raise EvaluationError(f"invalid {name} factor: it must be between 0 and 1, both excluded")
    return over_time.smoothed(*arguments)


def _predict_linear(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
    return regression.predictions(arguments[0], steps.times.astype(np.float64), arguments[1])


def _timestamp(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
    """Of a plain selector the evaluation gives the times of the samples already."""
    vector: Vector = arguments[0]
    if isinstance(call.arguments[0], Selector):
        return vector.with_values(vector.values)
    return vector.with_values(np.broadcast_to(steps.times / 1000, vector.values.shape).copy())


def _label_replace(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
    return relabel.label_replace(*cast("tuple[Vector, str, str, str, str]", tuple(arguments)))


def _label_join(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
    return relabel.label_join(arguments[0], arguments[1], arguments[2], arguments[3:])


def _quantile_of_histogram(steps: Steps, call: Call, arguments: list[Any]) -> Vector:
    return histogram.quantiles(arguments[0], arguments[1])


def _native(steps: Steps, call: Call, arguments: list[Any]) -> Value:
    raise EvaluationError(f"{call.function}() is for native histograms; here histograms have classic buckets")


FUNCTIONS: dict[str, Function] = {
    **{name: _of_values(run) for name, run in maths.UNARY.items()},
    **{name: _of_time(run) for name, run in maths.CALENDAR.items()},
    "round": Function(_round),
    "clamp": Function(_clamp),
    "clamp_min": _clamp_one(np.maximum),
    "clamp_max": _clamp_one(np.minimum),
    "pi": Function(lambda steps, call, arguments: _scalar(np.pi, steps)),
    "time": Function(lambda steps, call, arguments: steps.times / 1000),
    "scalar": Function(_to_scalar),
    "vector": Function(_to_vector),
    "timestamp": Function(_timestamp),
    "absent": Function(_absent),
    "absent_over_time": Function(_absent),
    "sort": Function(partial(_sorted, sign=1)),
    "sort_desc": Function(partial(_sorted, sign=-1)),
    "label_replace": Function(_label_replace, texts=(1, 2, 3, 4)),
    "label_join": Function(_label_join, texts=tuple(range(1, 100))),
    "histogram_quantile": Function(_quantile_of_histogram),
    "rate": _of_windows(rates.rate),
    "increase": _of_windows(rates.increase),
    "delta": _of_windows(rates.delta),
    "irate": _of_windows(rates.irate),
    "idelta": _of_windows(rates.idelta),
    "changes": _of_windows(rates.changes),
    "resets": _of_windows(rates.resets),
    "deriv": _of_windows(regression.slopes),
    "predict_linear": Function(_predict_linear),
    "holt_winters": Function(_holt_winters),
    "double_exponential_smoothing": Function(_holt_winters),
    "sum_over_time": _of_windows(over_time.sums),
    "avg_over_time": _of_windows(over_time.averages),
    "min_over_time": _of_windows(over_time.minima),
    "max_over_time": _of_windows(over_time.maxima),
    "count_over_time": _of_windows(over_time.counts),
    "present_over_time": _of_windows(over_time.present),
    "last_over_time": _of_windows(over_time.last),
    "stdvar_over_time": _of_windows(over_time.variances),
    "stddev_over_time": _of_windows(over_time.deviations),
    "quantile_over_time": Function(_quantile_over_time),
    **{name: Function(_native) for name in ("histogram_count", "histogram_sum", "histogram_fraction")},
}
