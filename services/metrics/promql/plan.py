"""What a query must read: which series, and of which time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.metrics.promql.data import Ints, Steps
from services.metrics.promql.errors import LimitError
from services.metrics.promql.tree import Anchor, Node, Range, Selector, Subquery, When, children

# How old a sample may be to count as the present one.
LOOKBACK_MS = 5 * 60_000
# The step of subqueries that name none: Prometheus' evaluation interval unless configured.
SUBQUERY_STEP_MS = 60_000


@dataclass(frozen=True, slots=True)
class Fetch:
    """Samples that are needed: of the selector's series, from `start` to `end`, both included, in milliseconds."""

    selector: Selector
    start: int
    end: int


def plan(node: Node, steps: Steps, *, lookback_ms: int = LOOKBACK_MS, max_steps: int = 100_000) -> list[Fetch]:
    """Return what the query needs, one for each selector that differs.

    Raises:
        LimitError: a subquery has too many steps.

    """
    found: dict[Selector, tuple[int, int]] = {}

    def add(selector: Selector, times: Ints, length: int) -> None:
        ends = anchored(times, selector.when, steps)
        start, end = int(ends.min()) - length, int(ends.max())
        old = found.get(selector, (start, end))
        found[selector] = (min(old[0], start), max(old[1], end))

    def visit(node: Node, times: Ints) -> None:
        if isinstance(node, Selector):
            add(node, times, lookback_ms)
        elif isinstance(node, Range):
            add(node.selector, times, node.range_ms)
        elif isinstance(node, Subquery):
            visit(node.inner, inner_times(node, times, steps, max_steps))
        else:
            for child in children(node):
                visit(child, times)

    visit(node, steps.times)
    return [Fetch(selector, *window) for selector, window in found.items()]


def anchored(times: Ints, when: When, steps: Steps) -> Ints:
    """Return the times that the modifiers `@` and `offset` make of those of the steps."""
    if when.at is None:
        return times - when.offset_ms
    at = (
        {Anchor.START: steps.query_start, Anchor.END: steps.query_end}[when.at]
        if isinstance(when.at, Anchor)
        else when.at
    )
    return np.full(len(times), at - when.offset_ms, np.int64)


def inner_times(node: Subquery, times: Ints, steps: Steps, max_steps: int) -> Ints:
    """Return when the inside of a subquery is evaluated: at multiples of its step, whatever those outside are.

    Raises:
        LimitError: that is too often.

    """
    ends = anchored(times, node.when, steps)
    step = node.step_ms or SUBQUERY_STEP_MS
    first = -((node.range_ms - int(ends.min())) // step) * step
    last = int(ends.max())
    count = (last - first) // step + 1
    if count > max_steps:
        raise LimitError(f"a subquery has {count} steps; at most {max_steps} are served: take a longer step")
    return np.arange(first, last + 1, step, dtype=np.int64)
