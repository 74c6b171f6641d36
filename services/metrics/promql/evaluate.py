"""Evaluation: the tree from the leaves up, every node for all steps at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from services.metrics.promql import plan as planning
from services.metrics.promql.aggregate import aggregate
from services.metrics.promql.binary import binary
from services.metrics.promql.data import (
    Block,
    Budget,
    Floats,
    Steps,
    Value,
    Vector,
    Windows,
    is_stale,
)
from services.metrics.promql.errors import LimitError
from services.metrics.promql.functions import FUNCTIONS
from services.metrics.promql.tree import (
    Aggregation,
    Binary,
    Call,
    Negated,
    Node,
    Number,
    Range,
    Selector,
    Subquery,
    Text,
)
from services.metrics.promql.windows import at, at_times


def evaluate(
    node: Node,
    steps: Steps,
    fetched: Mapping[Selector, Block],
    *,
    lookback_ms: int = planning.LOOKBACK_MS,
    budget: Budget | None = None,
) -> Value:
    """Return the value of a query at all steps, from the samples that `plan` asked for.

    A number is an array of one float a step, a vector a `Vector`, a range vector `Windows`, a string is one.

    Raises:
        EvaluationError: the samples have no answer to it.
        LimitError: it needs more than the budget has.

    """
    # NaN and infinities are values here, not accidents.
    with np.errstate(all="ignore"):
        return _Evaluation(steps, fetched, lookback_ms, budget or Budget()).value(node)


class _Evaluation:
    def __init__(self, steps: Steps, fetched: Mapping[Selector, Block], lookback_ms: int, budget: Budget) -> None:
        self._steps = steps
        self._fetched = fetched
        self._lookback_ms = lookback_ms
        self._budget = budget

    def value(self, node: Node) -> Value:
        """Return the value of a node."""
        self._budget.tick()
        if isinstance(node, Number):
            return np.full(len(self._steps), node.value)
        if isinstance(node, Text):
            return node.value
        if isinstance(node, Selector):
            return self._instant(node)
        if isinstance(node, Range):
            block = self._fetched[node.selector]
            return self._windows(
                block.living, planning.anchored(self._steps.times, node.selector.when, self._steps), node.range_ms
            )
        if isinstance(node, Subquery):
            return self._subquery(node)
        if isinstance(node, Negated):
            inner = self.value(node.inner)
            return inner.with_values(-inner.values) if isinstance(inner, Vector) else -_number(inner)
        if isinstance(node, Call):
            return self._call(node)
        if isinstance(node, Aggregation):
            return self._aggregation(node)
        return self._binary(node)

    def _instant(self, node: Selector, *, times_only: bool = False) -> Vector:
        """Return the newest sample of each series at each step, unless it is too old or says that the series ended."""
        block = self._fetched[node]
        refs = planning.anchored(self._steps.times, node.when, self._steps)
        self._afford(len(block.labels))
        last = block.until(refs, inclusive=True) - 1
        present = last >= block.starts[:-1, None]
        times = at_times(block.ts, last)
        values = at(block.values, last)
        present &= times >= (refs - self._lookback_ms)[None, :]
        if len(values):
            present &= ~is_stale(values)
        shown = times / 1000 if times_only else values
        return Vector(list(block.labels), shown, present).inhabited()

    def _windows(self, block: Block, ends: np.typing.NDArray[np.int64], range_ms: int) -> Windows:
        self._afford(len(block.labels))
        low = block.until(ends - range_ms, inclusive=False)
        return Windows(block, low, block.until(ends, inclusive=True), ends, range_ms)

    def _subquery(self, node: Subquery) -> Windows:
        times = planning.inner_times(node, self._steps.times, self._steps, self._budget.max_steps)
        inside = Steps(times, self._steps.query_start, self._steps.query_end)
        ends = planning.anchored(self._steps.times, node.when, self._steps)
        value = _Evaluation(inside, self._fetched, self._lookback_ms, self._budget).value(node.inner)
        vector = (
            value
            if isinstance(value, Vector)
            else Vector([()], _number(value)[None, :], np.ones((1, len(times)), np.bool_))
        )
        counts = vector.present.sum(axis=1)
        block = Block(
            vector.labels,
            np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            np.broadcast_to(times, vector.present.shape)[vector.present],
            vector.values[vector.present],
        )
        return self._windows(block, ends, node.range_ms)

    def _call(self, node: Call) -> Value:
        if node.function == "timestamp" and isinstance(node.arguments[0], Selector):
            times = self._instant(node.arguments[0], times_only=True)
            return FUNCTIONS["timestamp"].run(self._steps, node, [times])
        arguments = [self.value(argument) for argument in node.arguments]
        self._budget.tick()
        return FUNCTIONS[node.function].run(self._steps, node, arguments)

    def _aggregation(self, node: Aggregation) -> Vector:
        inner = self.value(node.inner)
        parameter = self.value(node.parameter) if node.parameter is not None else None
        assert isinstance(inner, Vector)
        assert parameter is None or isinstance(parameter, np.ndarray | str)
        self._budget.tick()
        return aggregate(node, inner, parameter)

    def _binary(self, node: Binary) -> Value:
        left, right = self.value(node.left), self.value(node.right)
        assert isinstance(left, Vector | np.ndarray)
        assert isinstance(right, Vector | np.ndarray)
        self._budget.tick()
        return binary(node, left, right)

    def _afford(self, series: int) -> None:
        """Raise LimitError if so many series by all steps are more than a query may have."""
        cells = series * len(self._steps)
        if cells > self._budget.max_cells:
            raise LimitError(
                f"{series} series at {len(self._steps)} steps are more than the {self._budget.max_cells} values "
                "that one query may hold: select fewer series, or take a longer step"
            )


def _number(value: Value) -> Floats:
    assert isinstance(value, np.ndarray)
    return value
