"""Functions about how fast samples change; counters may start over."""

from __future__ import annotations

import numpy as np

from services.metrics.promql.data import Floats, Vector, Windows
from services.metrics.promql.windows import at, at_times, reduced, running_counts, vector

# What is this much farther from the edge of the range than samples are from each other, is taken to have begun or
# ended there.
_THRESHOLD = 1.1


def rate(windows: Windows) -> Vector:
    return _extrapolated(windows, counter=True, per_second=True)


def increase(windows: Windows) -> Vector:
    return _extrapolated(windows, counter=True, per_second=False)


def delta(windows: Windows) -> Vector:
    return _extrapolated(windows, counter=False, per_second=False)


def _extrapolated(windows: Windows, *, counter: bool, per_second: bool) -> Vector:
    """Return the change over the range, guessed to its edges from the samples inside, by Prometheus' rules."""
    block, low, high = windows.block, windows.low, windows.high
    present = windows.counts >= 2
    first, last = at(block.values, low), at(block.values, high - 1)
    first_ts, last_ts = at_times(block.ts, low), at_times(block.ts, high - 1)
    result = last - first
    if counter:
        result = result + _resets_lost(windows)
    to_start = (first_ts - windows.starts) / 1000
    to_end = (windows.ends - last_ts) / 1000
    sampled = (last_ts - first_ts) / 1000
    between = sampled / (windows.counts - 1)
    if counter:
        # A counter is not extrapolated to below zero.
        to_zero = sampled * (first / result)
        lower = (result > 0) & (first >= 0) & (to_zero < to_start)
        to_start = np.where(lower, to_zero, to_start)
    threshold = between * _THRESHOLD
    extrapolated = sampled + np.where(to_start < threshold, to_start, between / 2)
    extrapolated = extrapolated + np.where(to_end < threshold, to_end, between / 2)
    factor = extrapolated / sampled
    if per_second:
        factor = factor / (windows.range_ms / 1000)
    return vector(windows, result * factor, present)


def _resets_lost(windows: Windows) -> Floats:
    """Return what the counters in each window had reached when they started over."""
    block, low, high = windows.block, windows.low, windows.high
    lost = np.zeros(low.shape)
    values = block.values
    drops = np.zeros(len(values), np.bool_)
    if len(values):
        drops[1:] = values[1:] < values[:-1]
    after = np.minimum(low + 1, high)  # the first sample of a window is compared to none
    touched = running_counts(drops, after, high) > 0
    if touched.any():
        amounts = np.where(drops, np.concatenate(([0.0], values[:-1])), 0.0)
        lost[touched] = reduced(np.add, amounts, after[touched], high[touched])
    return lost


def irate(windows: Windows) -> Vector:
    return _instant(windows, rate=True)


def idelta(windows: Windows) -> Vector:
    return _instant(windows, rate=False)


def _instant(windows: Windows, *, rate: bool) -> Vector:
    """Return the change between the last two samples."""
    block, high = windows.block, windows.high
    last, before = at(block.values, high - 1), at(block.values, high - 2)
    seconds = (at_times(block.ts, high - 1) - at_times(block.ts, high - 2)) / 1000
    present = (windows.counts >= 2) & (seconds != 0)
    change = last - before
    if rate:
        change = np.where(last < before, last, change) / seconds
    return vector(windows, change, present)


def changes(windows: Windows) -> Vector:
    values = windows.block.values
    flags = np.zeros(len(values), np.bool_)
    if len(values):
        flags[1:] = (values[1:] != values[:-1]) & ~(np.isnan(values[1:]) & np.isnan(values[:-1]))
    return _counted(windows, flags)


def resets(windows: Windows) -> Vector:
    values = windows.block.values
    flags = np.zeros(len(values), np.bool_)
    if len(values):
        flags[1:] = values[1:] < values[:-1]
    return _counted(windows, flags)


def _counted(windows: Windows, flags: np.typing.NDArray[np.bool_]) -> Vector:
    after = np.minimum(windows.low + 1, windows.high)
    counts = running_counts(flags, after, windows.high)
    return vector(windows, counts.astype(np.float64), windows.counts > 0)
