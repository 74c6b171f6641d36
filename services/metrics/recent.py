"""The samples of the series that were asked for lately, in memory. Pure.

A panel asks for the same few series again and again; to find them in the store is to read through those of all others.
What is in here is what the store has, as long as nobody else writes to it: see `ColumnStore.exclusive`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from services.metrics.promql.data import Floats, Ints

# Series of one query, of all, and their samples, 16 bytes each.
MAX_SERIES_A_QUERY = 16
MAX_SERIES = 512
MAX_SAMPLES = 1_000_000
# How far back samples are kept, from when a series was asked for.
REACH_MS = 6 * 3_600_000
# Parts of a series that wait to be put in order.
_MAX_PARTS = 64

_NONE = (np.empty(0, np.int64), np.empty(0, np.float64))


class _Kept:
    """One series from a time on."""

    __slots__ = ("filled", "parts", "since", "ts", "values")

    def __init__(self, since: int) -> None:
        self.since = since
        # Whether what the store has is in it; until then only what comes meanwhile is.
        self.filled = False
        self.ts, self.values = _NONE
        self.parts: list[tuple[Ints, Floats]] = []

    def ordered(self) -> tuple[Ints, Floats]:
        """Return its samples by time; of several at one time the last one."""
        if self.parts:
            ts = np.concatenate([self.ts, *(ts for ts, _ in self.parts)])
            values = np.concatenate([self.values, *(values for _, values in self.parts)])
            order = np.argsort(ts, kind="stable")
            ts, values = ts[order], values[order]
            last = np.ones(len(ts), np.bool_)
            last[:-1] = np.diff(ts) > 0
            self.ts, self.values, self.parts = ts[last], values[last], []
        return self.ts, self.values


class Recent:
    """Keeps series by their slots."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        # By slot: whether it is kept.
        self._wanted = np.zeros(1024, np.bool_)
        # Samples that came since their number was last looked at.
        self._came = 0

    def add(self, which: Ints, ts: Ints, values: Floats) -> None:
        """Note samples that are stored now, by slots."""
        if not self._kept:
            return
        known = which < len(self._wanted)
        mine = np.flatnonzero(known & self._wanted[np.where(known, which, 0)])
        if not len(mine):
            return
        self._came += len(mine)
        if self._came > MAX_SAMPLES // 4:
            self._bound()
        mine = mine[np.argsort(which[mine], kind="stable")]
        slots, starts = np.unique(which[mine], return_index=True)
        for slot, part in zip(slots.tolist(), np.split(mine, starts[1:]), strict=True):
            kept = self._kept.get(slot)
            if kept is None:
                continue
            kept.parts.append((ts[part], values[part]))
            if len(kept.parts) > _MAX_PARTS:
                kept.ordered()

    def begin(self, slots: Sequence[int], since: int) -> list[_Kept]:
        """Keep what comes of these series from now on: the store is asked next for what it has since `since`."""
        begun = []
        for slot in slots:
            kept = self._kept[slot] = _Kept(since)
            self._kept.move_to_end(slot)
            begun.append(kept)
            if slot >= len(self._wanted):
                self._wanted = np.concatenate((self._wanted, np.zeros(max(slot + 1, len(self._wanted)), np.bool_)))
            self._wanted[slot] = True
        return begun

    def fill(self, begun: Sequence[_Kept], row: Ints, ts: Ints, values: Floats) -> None:
        """Take what the store had of the series that were begun; `row` says of which of them each sample is."""
        order = np.argsort(row, kind="stable")
        starts = np.searchsorted(row[order], np.arange(len(begun) + 1))
        for i, kept in enumerate(begun):
            part = order[starts[i] : starts[i + 1]]
            # Before what has come meanwhile, which may be the same.
            kept.parts.insert(0, (ts[part], values[part]))
            kept.filled = True
        self._bound()

    def forget(self, slots: Sequence[int]) -> None:
        """Let go of series."""
        for slot in slots:
            if self._kept.pop(slot, None) is not None:
                self._wanted[slot] = False

    def get(self, slots: Sequence[int], start: int, end: int) -> tuple[Ints, Ints, Floats] | None:
        """Return the samples from `start` up to and with `end`, ordered; None when not all series are kept so far back.

        The first array has the place of each sample's series in `slots`.
        """
        found = [self._kept.get(slot) for slot in slots]
        if any(kept is None or not kept.filled or kept.since > start for kept in found):
            return None
        rows, times, values = [], [], []
        for i, kept in enumerate(found):
            assert kept is not None
            self._kept.move_to_end(slots[i])
            ts, numbers = kept.ordered()
            low, high = np.searchsorted(ts, start), np.searchsorted(ts, end, side="right")
            rows.append(np.full(high - low, i, np.int64))
            times.append(ts[low:high])
            values.append(numbers[low:high])
        return np.concatenate(rows), np.concatenate(times), np.concatenate(values)

    def _bound(self) -> None:
        self._came = 0
        size = sum(len(kept.ts) + sum(len(ts) for ts, _ in kept.parts) for kept in self._kept.values())
        while self._kept and (len(self._kept) > MAX_SERIES or size > MAX_SAMPLES):
            slot, kept = self._kept.popitem(last=False)
            self._wanted[slot] = False
            size -= len(kept.ordered()[0])

    def trim(self, now_ms: int) -> None:
        """Let go of what nobody has asked for so far back, and of series that have grown too large."""
        horizon = now_ms - REACH_MS
        for kept in self._kept.values():
            if kept.filled and kept.since < horizon:
                ts, values = kept.ordered()
                first = int(np.searchsorted(ts, horizon))
                kept.ts, kept.values, kept.since = ts[first:].copy(), values[first:].copy(), horizon
        self._bound()
