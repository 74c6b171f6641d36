"""Data points of one metric as samples of classic series. Pure.

Deltas are added up (`Totals`). An exponential histogram becomes classic buckets whose bounds are powers of the square
root of 2, or of a wider base when it is coarser: those that its data lies between, so that a series appears when its
bucket is first used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.metrics.promql.labels import Labels
from services.metrics.promql.numbers import formatted

# Two buckets for each doubling: what is finer is joined.
MAX_SCALE = 1
# What one histogram may have; what is more is joined.
MAX_BUCKETS = 200


class StaleTimeError(Exception):
    """A delta that does not follow what came before it: it was taken already, or is too late."""


@dataclass(slots=True)
class _Total:
    at_ns: int
    numbers: dict[str, float]


@dataclass(slots=True)
class Totals:
    """What deltas have come to, by series; `staged` becomes true with `commit`."""

    known: dict[Labels, _Total] = field(default_factory=dict)
    staged: dict[Labels, _Total] = field(default_factory=dict)

    def add(self, series: Labels, at_ns: int, numbers: dict[str, float]) -> dict[str, float]:
        """Return the totals after a delta.

        Raises:
            StaleTimeError: its time is not after that of the delta before.

        """
        old = self.staged.get(series) or self.known.get(series)
        if old is None:
            made = dict(numbers)
        elif at_ns <= old.at_ns:
            raise StaleTimeError
        else:
            made = {key: numbers.get(key, 0.0) + old.numbers.get(key, 0.0) for key in (*old.numbers, *numbers)}
        self.staged[series] = _Total(at_ns, made)
        return made

    def commit(self) -> None:
        self.known.update(self.staged)
        self.staged.clear()

    def drop(self) -> None:
        self.staged.clear()

    def forget_before(self, at_ns: int) -> None:
        """Forget what got no delta since; its next one begins anew, as a counter that was reset."""
        self.known = {series: total for series, total in self.known.items() if total.at_ns >= at_ns}


def classic(bounds: Sequence[float], counts: Sequence[int]) -> dict[str, float]:
    """Return the counts up to each bound, by `le`."""
    if len(counts) != len(bounds) + 1:
        raise ValueError(f"a histogram has {len(bounds)} bounds and {len(counts)} counts; it needs one count more")
    if any(b <= a for a, b in itertools.pairwise(bounds)) or not all(map(math.isfinite, bounds)):
        raise ValueError("the bounds of a histogram do not ascend")
    les = (*map(formatted, bounds), "+Inf")
    return dict(zip(les, map(float, itertools.accumulate(counts)), strict=True))


def exponential(point: Any) -> dict[str, float]:
    """Return the counts up to each bound of an exponential histogram, by `le`."""
    below = point.zero_count + sum(point.negative.bucket_counts)
    scale, counts = int(point.scale), dict(_indexed(point.positive))
    if scale > MAX_SCALE:
        counts, scale = _joined(counts, scale - MAX_SCALE), MAX_SCALE
    while len(counts) > MAX_BUCKETS:
        counts, scale = _joined(counts, 1), scale - 1
    made: dict[str, float] = {}
    total = float(below)
    if counts:
        first, last = min(counts), max(counts)
        made[_bound(first, scale)] = total
        for index in range(first, last + 1) if last - first < MAX_BUCKETS else sorted(counts):
            total += counts.get(index, 0)
            made[_bound(index + 1, scale)] = total
    made["+Inf"] = float(point.count)
    return made


def _indexed(buckets: Any) -> Iterable[tuple[int, int]]:
    return ((buckets.offset + i, count) for i, count in enumerate(buckets.bucket_counts) if count)


def _joined(counts: dict[int, int], by: int) -> dict[int, int]:
    """Return the counts at a scale that is lower by so much: 2 ** by buckets become one."""
    found: dict[int, int] = {}
    for index, count in counts.items():
        found[index >> by] = found.get(index >> by, 0) + count
    return found


def _bound(index: int, scale: int) -> str:
    """Return the lower bound of a bucket as a label; beyond what a float holds it is the nearest that it does."""
    power = index * 2.0**-scale
    return formatted(2.0 ** min(max(power, -1022.0), 1023.0))
