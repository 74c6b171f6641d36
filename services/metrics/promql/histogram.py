"""`histogram_quantile` over classic buckets: counters with the label `le`."""

from __future__ import annotations

import numpy as np

from services.metrics.promql.data import Bools, Floats, Vector
from services.metrics.promql.labels import BUCKET, NAME, Labels, drop, get


def quantiles(q: Floats, vector: Vector) -> Vector:
    """Return the q-quantile (one number a step) of each group of buckets."""
    groups: dict[Labels, list[tuple[float, int]]] = {}
    for row, labels in enumerate(vector.labels):
        try:
            bound = float(get(labels, BUCKET))
        except ValueError:
            continue  # no bucket
        groups.setdefault(drop(labels, (NAME, BUCKET)), []).append((bound, row))
    made, values, present = [], [], []
    for labels, buckets in groups.items():
        buckets.sort()
        rows = [row for _, row in buckets]
        here = vector.present[rows]
        made.append(labels)
        present.append(here.any(axis=0))
        values.append(_group(q, np.array([bound for bound, _ in buckets]), vector.values[rows], here))
    if not made:
        return Vector.empty(len(q))
    return Vector(made, np.array(values), np.array(present)).inhabited()


def _group(q: Floats, bounds: Floats, counts: Floats, present: Bools) -> Floats:
    """Return the quantiles of one group; which buckets it has may differ from step to step."""
    result = np.full(len(q), np.nan)
    patterns, which = np.unique(present, axis=1, return_inverse=True)
    for i in range(patterns.shape[1]):
        steps = np.flatnonzero(which.ravel() == i)
        rows = np.flatnonzero(patterns[:, i])
        if len(rows):
            result[steps] = _interpolated(q[steps], bounds[rows], counts[np.ix_(rows, steps)])
    result[q < 0] = -np.inf
    result[q > 1] = np.inf
    result[np.isnan(q)] = np.nan
    return result


def _interpolated(q: Floats, bounds: Floats, counts: Floats) -> Floats:
    """Return the quantiles where all of these buckets, ordered by their bounds, are there."""
    nothing = np.full(len(q), np.nan)
    if not np.isposinf(bounds[-1]):
        return nothing
    bounds, starts = np.unique(bounds, return_index=True)
    if len(bounds) < 2:
        return nothing
    # Equal bounds, such as 1 and 1.0, are one bucket; scrapes that raced may not be monotonic.
    counts = np.maximum.accumulate(np.add.reduceat(counts, starts, axis=0), axis=0)
    columns = np.arange(len(q))
    total = counts[-1]
    rank = np.clip(q, 0, 1) * total
    bucket = np.argmax(counts[:-1] >= rank, axis=0)
    none = ~(counts[:-1] >= rank).any(axis=0)
    before = np.maximum(bucket - 1, 0)
    inner = bucket > 0
    start = np.where(inner, bounds[before], 0.0)
    below = np.where(inner, counts[before, columns], 0.0)
    end = bounds[bucket]
    found = start + (end - start) * ((rank - below) / (counts[bucket, columns] - below))
    found = np.where(~inner & (bounds[0] <= 0), bounds[0], found)
    found = np.where(none, bounds[-2], found)
    return np.where(total == 0, np.nan, found)
