"""Aggregations over time: the samples of each window to one number."""

from __future__ import annotations

import numpy as np

from services.metrics.promql.data import Floats, Vector, Windows
from services.metrics.promql.windows import at, reduced, spread, vector


def sums(windows: Windows) -> Vector:
    values = reduced(np.add, windows.block.values, windows.low, windows.high)
    return vector(windows, values, windows.counts > 0)


def averages(windows: Windows) -> Vector:
    return vector(windows, _means(windows), windows.counts > 0)


def _means(windows: Windows) -> Floats:
    samples = windows.block.values
    means = reduced(np.add, samples, windows.low, windows.high) / windows.counts
    wide = np.isinf(means)
    if wide.any():  # perhaps only their sum is too large to be a number
        low, high = windows.low[wide], windows.high[wide]
        peak = reduced(np.fmax, np.abs(samples), low, high)
        exact = reduced(np.add, samples / 2.0**64, low, high) / (high - low) * 2.0**64
        means[wide] = np.where(np.isfinite(peak), exact, means[wide])
    return means


def minima(windows: Windows) -> Vector:
    values = reduced(np.fmin, windows.block.values, windows.low, windows.high)
    return vector(windows, values, windows.counts > 0)


def maxima(windows: Windows) -> Vector:
    values = reduced(np.fmax, windows.block.values, windows.low, windows.high)
    return vector(windows, values, windows.counts > 0)


def counts(windows: Windows) -> Vector:
    return vector(windows, windows.counts.astype(np.float64), windows.counts > 0)


def present(windows: Windows) -> Vector:
    return vector(windows, np.ones(windows.low.shape), windows.counts > 0)


def last(windows: Windows) -> Vector:
    return vector(windows, at(windows.block.values, windows.high - 1), windows.counts > 0, keep_name=True)


def variances(windows: Windows) -> Vector:
    return vector(windows, _variances(windows), windows.counts > 0)


def deviations(windows: Windows) -> Vector:
    return vector(windows, np.sqrt(_variances(windows)), windows.counts > 0)


def _variances(windows: Windows) -> Floats:
    means = _means(windows).ravel()
    result = np.full(windows.low.size, np.nan)
    for some in spread(windows):
        off = some.values - some.repeat(means[some.place])
        result[some.place] = some.sum(off * off) / some.counts
    return result.reshape(windows.low.shape)


def quantiles(windows: Windows, q: Floats) -> Vector:
    """Return the q-quantile of each window; q is one number a step."""
    result = np.full(windows.low.size, np.nan)
    steps = windows.low.shape[1]
    for some in spread(windows):
        # NaN is below all numbers.
        key = np.where(np.isnan(some.values), -np.inf, some.values)
        order = np.lexsort((~np.isnan(some.values), key, some.window))
        result[some.place] = picked(
            some.values[order], some.begin, some.counts.astype(np.float64), q[some.place % steps]
        )
    return vector(windows, result.reshape(windows.low.shape), windows.counts > 0)


def picked(ordered: Floats, begin: np.typing.NDArray[np.int64], counts: Floats, q: Floats) -> Floats:
    """Return the q-quantiles of runs of ordered samples, of which none is empty."""
    rank = np.nan_to_num(np.clip(q, 0, 1)) * (counts - 1)
    lower = np.maximum(0, np.floor(rank))
    upper = np.minimum(counts - 1, lower + 1)
    weight = rank - np.floor(rank)
    below, above = ordered[begin + lower.astype(np.int64)], ordered[begin + upper.astype(np.int64)]
    found = below * (1 - weight) + above * weight
    found = np.where(q < 0, -np.inf, np.where(q > 1, np.inf, found))
    return np.where(np.isnan(q), np.nan, found)


def smoothed(windows: Windows, level: Floats, trend: Floats) -> Vector:
    """Holt-Winters' double exponential smoothing, with both factors one number a step."""
    result = np.full(windows.low.size, np.nan)
    steps = windows.low.shape[1]
    values = windows.block.values
    low, counts = windows.low.ravel(), windows.counts.ravel()
    wanted = np.flatnonzero(counts >= 2)
    if len(wanted):
        by_level, by_trend = level[wanted % steps], trend[wanted % steps]
        start, held = low[wanted], counts[wanted]
        smooth = values[start].copy()
        slope = values[start + 1] - values[start]
        for i in range(1, int(held.max())):
            live = held > i
            scaled = by_level * at(values, start + i)
            carried = (1 - by_level) * (smooth + slope)
            now = scaled + carried
            # The slope that goes into the first step is the first difference itself.
            after = by_trend * (now - smooth) + (1 - by_trend) * slope
            slope = np.where(live, after, slope)
            smooth = np.where(live, now, smooth)
        result[wanted] = smooth
    return vector(windows, result.reshape(windows.low.shape), windows.counts >= 2)
