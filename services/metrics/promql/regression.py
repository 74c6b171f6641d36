"""Straight lines through the samples of a window."""

from __future__ import annotations

import numpy as np

from services.metrics.promql.data import Floats, Vector, Windows
from services.metrics.promql.windows import spread, vector


def slopes(windows: Windows) -> Vector:
    """Return the slope a second, as `deriv` does."""
    slope, _ = _lines(windows, None)
    return vector(windows, slope, windows.counts >= 2)


def predictions(windows: Windows, now: Floats, ahead: Floats) -> Vector:
    """Return the value `ahead` seconds after `now` (milliseconds), each one number a step."""
    slope, level = _lines(windows, now)
    return vector(windows, slope * ahead + level, windows.counts >= 2)


def _lines(windows: Windows, now: Floats | None) -> tuple[Floats, Floats]:
    """Return the slope a second and the value at `now` of the line of least squares."""
    steps = windows.low.shape[1]
    slopes, levels = (np.full(windows.low.size, np.nan) for _ in range(2))
    for some in spread(windows, least=2):
        start = some.times[some.begin].astype(np.float64)
        x = (some.times - some.repeat(start)) / 1000
        middle = some.sum(x) / some.counts
        mean = some.sum(some.values) / some.counts
        dx, dy = x - some.repeat(middle), some.values - some.repeat(mean)
        slope = some.sum(dx * dy) / some.sum(dx * dx)
        zero = start if now is None else now[some.place % steps]
        level = mean + slope * ((zero - start) / 1000 - middle)
        first = some.values[some.begin]
        flat = np.logical_and.reduceat(some.values == some.repeat(first), some.begin)
        # Of equal values the line is known, and exact.
        slope = np.where(flat, np.where(np.isinf(first), np.nan, 0.0), slope)
        level = np.where(flat, np.where(np.isinf(first), np.nan, first), level)
        slopes[some.place], levels[some.place] = slope, level
    return slopes.reshape(windows.low.shape), levels.reshape(windows.low.shape)
