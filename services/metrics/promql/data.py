"""What a query computes with: samples by series, and vectors over all steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from services.metrics.promql.errors import EvaluationError
from services.metrics.promql.labels import Labels, text, without_name

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

# The bits of the NaN by which Prometheus says that a series has ended.
STALE_BITS = 0x7FF0000000000002
STALE = float(np.array([STALE_BITS], dtype=np.uint64).view(np.float64)[0])


def is_stale(values: Floats) -> Bools:
    """Tell which values are the stale marker, and not a plain NaN."""
    return np.asarray(np.ascontiguousarray(values).view(np.uint64) == STALE_BITS)


class Block:
    """Samples of several series, one series after the other, each by time.

    `starts[i]:starts[i + 1]` are the samples of series i; times are milliseconds since 1970.
    """

    def __init__(self, labels: Sequence[Labels], starts: Ints, ts: Ints, values: Floats) -> None:
        self.labels = labels
        self.starts = starts
        self.ts = ts
        self.values = values

    @classmethod
    def of(cls, series: Sequence[tuple[Labels, Ints, Floats]]) -> Block:
        """Join single series."""
        counts = [len(ts) for _, ts, _ in series]
        return cls(
            [labels for labels, _, _ in series],
            np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            np.concatenate([ts for _, ts, _ in series]) if series else np.empty(0, np.int64),
            np.concatenate([values for _, _, values in series]) if series else np.empty(0),
        )

    @cached_property
    def living(self) -> Block:
        """The block without stale markers, as ranges see it."""
        stale = is_stale(self.values)
        if not stale.any():
            return self
        gone = np.concatenate(([0], np.cumsum(stale)))
        return Block(self.labels, self.starts - gone[self.starts], self.ts[~stale], self.values[~stale])

    @cached_property
    def _keys(self) -> tuple[Ints, int, int]:
        """Times such that those of a later series are later: one search finds a time in every series."""
        if not len(self.ts):
            return self.ts, 0, 1
        first = int(self.ts.min())
        span = int(self.ts.max()) - first + 2
        series = np.repeat(np.arange(len(self.labels), dtype=np.int64), np.diff(self.starts))
        return self.ts - first + series * span, first, span

    def until(self, times: Ints, *, inclusive: bool) -> Ints:
        """Return how many samples lie before each time, over series and times, counted from the start of the block."""
        keys, first, span = self._keys
        clipped = np.clip(times - first, -1, span - 1)
        wanted = np.arange(len(self.labels), dtype=np.int64)[:, None] * span + clipped[None, :]
        found = np.searchsorted(keys, wanted.ravel(), side="right" if inclusive else "left")
        counts: Ints = found.astype(np.int64).reshape(wanted.shape)
        return np.clip(counts, self.starts[:-1, None], self.starts[1:, None])


@dataclass(slots=True)
class Vector:
    """An instant vector at every step: `values[series, step]`, where `present` is true."""

    labels: list[Labels]
    values: Floats
    present: Bools

    @classmethod
    def empty(cls, steps: int) -> Vector:
        return cls([], np.empty((0, steps)), np.empty((0, steps), np.bool_))

    def pick(self, rows: Sequence[int] | Ints | Bools) -> Vector:
        """Return some of the series, in that order."""
        index = np.asarray(rows)
        if index.dtype == np.bool_:
            index = np.flatnonzero(index)
        index = index.astype(np.int64)
        return Vector([self.labels[i] for i in index], self.values[index], self.present[index])

    def inhabited(self) -> Vector:
        """Return the vector without series that are at no step."""
        some: Bools = np.asarray(self.present.any(axis=1))
        return self if some.all() else self.pick(some)

    def with_values(self, values: Floats, present: Bools | None = None) -> Vector:
        """Return other values of the same series, which lose their names."""
        kept = self.present if present is None else present
        return merged(Vector([without_name(labels) for labels in self.labels], values, kept))


@dataclass(slots=True)
class Windows:
    """A range vector at every step: samples `low:high` of the block, for each series and step."""

    block: Block
    low: Ints
    high: Ints
    # Where each step's range ends, and how long it is; milliseconds.
    ends: Ints
    range_ms: int

    @property
    def counts(self) -> Ints:
        return self.high - self.low

    @property
    def starts(self) -> Ints:
        return self.ends - self.range_ms


Value: TypeAlias = Vector | Windows | Floats | str


@dataclass(frozen=True, slots=True)
class Steps:
    """The times at which a query is evaluated."""

    # Milliseconds, ascending.
    times: Ints
    # Of the whole query: what `@ start()` and `@ end()` mean.
    query_start: int
    query_end: int

    @classmethod
    def range(cls, start: int, end: int, step: int) -> Steps:
        """Return every `step` from `start` to `end`, both included."""
        return cls(np.arange(start, end + 1, max(step, 1), dtype=np.int64), start, end)

    def __len__(self) -> int:
        return len(self.times)


def merged(vector: Vector) -> Vector:
    """Join series with the same labels, which must not be there at the same step.

    Raises:
        EvaluationError: they are.

    """
    if len(set(vector.labels)) == len(vector.labels):
        return vector
    rows: dict[Labels, int] = {}
    values: list[Floats] = []
    present: list[Bools] = []
    for i, labels in enumerate(vector.labels):
        row = rows.setdefault(labels, len(values))
        if row == len(values):
            values.append(vector.values[i].copy())
            present.append(vector.present[i].copy())
            continue
        here = vector.present[i]
        if (present[row] & here).any():
            raise duplicate(labels)
        values[row][here] = vector.values[i][here]
        present[row] |= here
    return Vector(list(rows), np.array(values), np.array(present))


def distinct(vector: Vector) -> Vector:
    """Return the series that are at any step, whose labels must differ.

    Raises:
        EvaluationError: they do not.

    """
    found = vector.inhabited()
    seen: set[Labels] = set()
    for labels in found.labels:
        if labels in seen:
            raise duplicate(labels)
        seen.add(labels)
    return found


def duplicate(labels: Labels) -> EvaluationError:
    return EvaluationError(f"vector cannot contain metrics with the same labelset: {text(labels)} comes twice")


@dataclass(slots=True)
class Budget:
    """What one evaluation may use, and how it is told to stop."""

    # Values of one intermediate result: series by steps.
    max_cells: int = 10_000_000
    max_steps: int = 100_000
    # Called between pieces of work; raises to end it.
    tick: Callable[[], None] = field(default=lambda: None)
