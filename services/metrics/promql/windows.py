"""Reading ranges: one number a window, from the samples in it, for all series and steps at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from services.metrics.promql.data import Bools, Floats, Ints, Vector, Windows, distinct
from services.metrics.promql.labels import without_name

# Samples, windows overlapping, that are copied out at once.
_CHUNK = 2_000_000


def vector(windows: Windows, values: Floats, present: Bools, *, keep_name: bool = False) -> Vector:
    """Return what a function of the windows gives; `EvaluationError` if without their names series are alike."""
    labels = list(windows.block.labels)
    return distinct(Vector(labels if keep_name else [without_name(one) for one in labels], values, present))


def at(samples: Floats, index: Ints) -> Floats:
    """Return the samples at these places; of those that are none, such as in empty windows, anything."""
    if not len(samples):
        return np.full(index.shape, np.nan)
    return samples[np.clip(index, 0, len(samples) - 1)]


def at_times(samples: Ints, index: Ints) -> Ints:
    """As `at`, of times."""
    if not len(samples):
        return np.zeros(index.shape, np.int64)
    return samples[np.clip(index, 0, len(samples) - 1)]


def reduced(ufunc: np.ufunc, samples: Floats, low: Ints, high: Ints) -> Floats:
    """Return `ufunc` over `samples[low:high]`, of each window; NaN of empty ones."""
    full = high > low
    result = np.full(low.shape, np.nan)
    if not full.any():
        return result
    # reduceat takes pairs of bounds, and gives what is between the pairs as well, which nobody wants.
    bounds = np.empty(2 * int(full.sum()), np.int64)
    bounds[0::2], bounds[1::2] = low[full], high[full]
    padded = np.append(samples, 0.0)  # a bound must be a place
    result[full] = ufunc.reduceat(padded, bounds)[0::2]
    return result


def running_counts(flags: Bools, low: Ints, high: Ints) -> Ints:
    """Return how many flags are set in `low:high`, of each window."""
    total = np.concatenate(([0], np.cumsum(flags, dtype=np.int64)))
    counts: Ints = total[np.maximum(low, high)] - total[low]
    return counts


@dataclass(frozen=True, slots=True)
class Spread:
    """Some windows with their samples copied out, one window after the other; none is empty."""

    # Where in the flattened result they belong.
    place: Ints
    # Where in `values` each begins, and how many it has.
    begin: Ints
    counts: Ints
    values: Floats
    times: Ints

    def repeat(self, per_window: Floats) -> Floats:
        """Return one number a window as one a sample."""
        repeated: Floats = np.repeat(per_window, self.counts)
        return repeated

    def sum(self, per_sample: Floats) -> Floats:
        total: Floats = np.add.reduceat(per_sample, self.begin)
        return total

    @property
    def window(self) -> Ints:
        """The number of the window of each sample."""
        return np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)


def spread(windows: Windows, least: int = 1) -> Iterator[Spread]:
    """Yield all windows of at least so many samples, in pieces that fit into memory."""
    counts = windows.counts.ravel()
    low = windows.low.ravel()
    wanted = np.flatnonzero(counts >= least)
    ends = np.cumsum(counts[wanted])
    first = 0
    while first < len(wanted):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
        place = wanted[first:last]
        held = counts[place]
        begin = np.concatenate(([0], np.cumsum(held)[:-1]))
        index = np.repeat(low[place] - begin, held) + np.arange(int(held.sum()), dtype=np.int64)
        yield Spread(place, begin, held, windows.block.values[index], windows.block.ts[index])
        first = last
