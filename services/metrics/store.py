"""Metrics on a columnar store: series known in memory, samples on disk."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from mesh.clock import Clock, SystemClock
from services.metrics import tables
from services.metrics.options import MetricsOptions
from services.metrics.promql.data import STALE, Block, Bools, Floats, Ints
from services.metrics.promql.errors import LimitError
from services.metrics.promql.labels import from_mapping
from services.metrics.promql.plan import LOOKBACK_MS, Fetch
from services.metrics.recent import MAX_SERIES_A_QUERY, REACH_MS, Recent
from services.metrics.samples import Meta, Samples, Stored
from services.metrics.series import SeriesIndex
from services.storage.columns.base import ColumnStore, Scope

# So few series are named in the query, which the database then looks for as it reads: half of the time of a join.
_NAMED = 4
# What is selected by more series than this is read by time alone and sifted here.
_SIFTED = 20_000
_LATEST = 1 << 60
# More samples than this are put in order in a thread: the event loop has calls to answer meanwhile.
_LARGE = 50_000
# A series that came, and whose samples are not durable yet, counts as just seen.
MAX_METADATA = 50_000


class MetricStore:
    """Keep `columns` open while it is used; call `load` first. All methods are for one event loop."""

    def __init__(self, columns: ColumnStore, options: MetricsOptions | None = None, clock: Clock | None = None) -> None:
        self.options = options or MetricsOptions()
        self.index = SeriesIndex()
        self.meta: dict[str, Meta] = {}
        # Since the start, by reason.
        self.rejected: Counter[str] = Counter()
        self.accepted = 0
        # Told of samples that were stored for the first time, and of what is known of their metrics.
        self.tap: Callable[[Samples, Mapping[str, Meta]], None] | None = None
        # What is in the store, as long as it is ours alone.
        self._recent = Recent() if columns.exclusive else None
        self._columns = columns
        self._clock = clock or SystemClock()
        self._by_source: dict[str, set[int]] = {}
        # In which period each metric was last described.
        self._described: dict[str, tuple[int, Meta]] = {}

    def now_ms(self) -> int:
        return self._clock.wall_ns() // 1_000_000

    async def load(self) -> None:
        """Learn the series that have samples.

        Raises:
            StorageError: the store cannot be read.

        """
        rows = await self._columns.query(
            "SELECT max(seen_ms) AS seen_ms, labels FROM {s} GROUP BY labels", (), {"s": Scope(tables.SERIES)}
        )
        for seen, labels in zip(rows.column(0).to_pylist(), rows.column(1).to_pylist(), strict=True):
            slot = self.index.add(from_mapping(json.loads(labels)))
            # Its newest sample is of that period, at any time.
            self.index.newest[slot] = (seen // tables.PERIOD_MS + 1) * tables.PERIOD_MS
        names = await self._columns.query(
            "SELECT name, type, unit, help FROM {n} ORDER BY seen_ms", (), {"n": Scope(tables.NAMES)}
        )
        self.meta = {row["name"]: Meta(row["type"], row["unit"], row["help"]) for row in names.to_pylist()}

    async def append(
        self,
        samples: Samples,
        *,
        source: str,
        producer: str = "",
        seq: int = 0,
        after: int | None = None,
        tapped: bool = True,
    ) -> Stored:
        """Store samples, and return when they are durable.

        `source` is whose series are counted together: a scraped instance, or who pushes. With a `producer` what it sent
        under one `seq` is stored once. Without `tapped` the store's tap does not hear of them.

        Raises:
            FullError: too much waits to be written.
            StorageError: it could not be written.
            SequenceError: see `ColumnStore.append`, which says what `after` is.

        """
        slots, refused = self._slots(samples, source)
        which = slots[samples.which]
        rejected = Counter(refused)
        kept = which >= 0
        for reason, bad in self._absurd(samples.ts).items():
            if count := int((bad & kept).sum()):
                rejected[reason] += count
                kept &= ~bad
        which, ts, values = which[kept], samples.ts[kept], samples.values[kept]
        batches: dict[str, pa.Table] = {tables.SAMPLES: tables.samples_table(self.index.ids[which], ts, values)}
        batches |= self._announcements(which, ts)
        described = self._descriptions(samples.meta, int(ts.max()) if len(ts) else 0)
        if described:
            batches[tables.NAMES] = tables.names_table(described, int(ts.max()))
        if not len(ts) and not producer:
            return self._done(0, rejected)
        done = await self._columns.append(batches, producer=producer, seq=seq, after=after)
        if len(ts):
            np.maximum.at(self.index.newest, which, ts)
            self.index.announced[which] = ts // tables.PERIOD_MS
            self._note(described, int(ts.max()))
            if self._recent is not None and not done.duplicate:
                self._recent.add(which, ts, values)
        if done.duplicate:
            return Stored(len(ts), {}, done.durable_seq, duplicate=True)
        if tapped and self.tap is not None:
            self.tap(Samples(samples.series, samples.which[kept], ts, values, samples.meta), self.meta)
        return self._done(len(ts), rejected, done.durable_seq)

    async def fetch(self, wanted: Fetch) -> Block:
        """Return the samples that a query needs.

        Raises:
            LimitError: they are more than a query may have.
            StorageError: the store cannot be read.

        """
        slots = self.index.select(wanted.selector.matchers, wanted.start)
        ids = self.index.ids[np.array(slots, np.int64)]
        if not len(slots):
            return Block.of([])
        labels = list(self.index.of(slots))
        if self._recent is not None and len(slots) <= MAX_SERIES_A_QUERY and wanted.start > self.now_ms() - REACH_MS:
            return _block(labels, *await self._recently(self._recent, slots, wanted))
        row, ts, values = await self._stored(slots, ids, wanted)
        if len(ts) > _LARGE:
            return await asyncio.to_thread(_block, labels, row, ts, values)
        return _block(labels, row, ts, values)

    async def _recently(self, recent: Recent, slots: list[int], wanted: Fetch) -> tuple[Ints, Ints, Floats]:
        """Return the samples of a few series from memory, or have them there for the next time."""
        found = recent.get(slots, wanted.start, wanted.end)
        if found is not None:
            return found
        begun = recent.begin(slots, wanted.start)
        try:
            # To the end: what is later must be there as well when it is asked for.
            late = Fetch(wanted.selector, wanted.start, _LATEST)
            row, ts, values = await self._stored(slots, self.index.ids[np.array(slots, np.int64)], late)
        except BaseException:
            recent.forget(slots)
            raise
        recent.fill(begun, row, ts, values)
        meant = ts <= wanted.end
        return row[meant], ts[meant], values[meant]

    async def _stored(self, slots: list[int], ids: Ints, wanted: Fetch) -> tuple[Ints, Ints, Floats]:
        """Return samples as the store has them, in any order; first the place of each one's series in `slots`."""
        most = self.options.max_query_samples
        scope = {"s": Scope(tables.SAMPLES, start=wanted.start, end=wanted.end + 1)}
        chosen, params, placed = "SELECT series_id, ts_ms, value FROM {s}", [], False
        if len(slots) <= _NAMED:
            chosen += f" WHERE series_id IN ({', '.join(map(str, ids.tolist()))})"
        elif len(slots) <= _SIFTED and len(slots) < len(self.index):
            # The database finds the series anyway; so it can say which of those that are wanted it is.
            chosen = (
                "SELECT place AS series_id, ts_ms, value FROM {s} JOIN (SELECT unnest(CAST($1 AS BIGINT[])) AS id,"
                " unnest(CAST($2 AS BIGINT[])) AS place) AS wanted ON s.series_id = wanted.id"
            )
            params, placed = [ids.tolist(), list(range(len(slots)))], True
        rows = await self._columns.query(f"{chosen} LIMIT {most + 1}", params, scope)
        if rows.num_rows > most:
            raise LimitError(f"the query reads more than {most} samples: select fewer series, or a shorter time")
        if placed:
            return tables.read_samples(rows)
        if rows.num_rows > _LARGE:
            return await asyncio.to_thread(_sifted, rows, ids)
        return _sifted(rows, ids)

    def forget_old(self) -> int:
        """Forget the series whose samples are gone; return how many."""
        if self._recent is not None:
            self._recent.trim(self.now_ms())
        gone = self.index.forget_before(self.now_ms() - round(self.options.max_age * 1000))
        if gone:
            for source, slots in list(self._by_source.items()):
                alive = {slot for slot in slots if self.index.labels[slot] is not None}
                self._by_source[source] = alive
                if not alive:
                    del self._by_source[source]
        return gone

    def ending(self, source: str) -> Samples:
        """Return stale markers for all series of a source that a query would still see."""
        now = self.now_ms()
        slots = [slot for slot in self._by_source.get(source, ()) if self.index.newest[slot] >= now - LOOKBACK_MS]
        count = len(slots)
        # Behind what was sent last: its clock may be a little ahead.
        at = np.maximum(self.index.newest[np.array(slots, np.int64)] + 1, now)
        return Samples(list(self.index.of(slots)), np.arange(count, dtype=np.int64), at, np.full(count, STALE))

    def forget_source(self, source: str) -> None:
        """Count the series of a source no more: it has left."""
        self._by_source.pop(source, None)

    def series_of(self, source: str) -> int:
        return len(self._by_source.get(source, ()))

    def _slots(self, samples: Samples, source: str) -> tuple[Ints, Mapping[str, int]]:
        """Return the slot of each series, -1 of those that are refused, and how many samples that refuses."""
        options, index = self.options, self.index
        mine = self._by_source.setdefault(source, set())
        slots = np.empty(len(samples.series), np.int64)
        refused: dict[int, str] = {}
        now = self.now_ms()
        for i, labels in enumerate(samples.series):
            slot = index.slot(labels)
            if slot is None or slot not in mine:
                if len(mine) >= options.max_series_per_target:
                    refused[i] = f"{source} has {options.max_series_per_target} series already, as many as it may"
                elif slot is None and len(index) >= options.max_series:
                    refused[i] = f"there are {options.max_series} series already, as many as there may be"
                if i in refused:
                    slots[i] = -1
                    continue
                slot = index.add(labels)
                index.newest[slot] = max(index.newest[slot], now)
                mine.add(slot)
            slots[i] = slot
        if not refused:
            return slots, {}
        counts = np.bincount(samples.which, minlength=len(slots))
        reasons: Counter[str] = Counter()
        for i, reason in refused.items():
            reasons[reason] += int(counts[i])
        return slots, reasons

    def _absurd(self, ts: Ints) -> Mapping[str, Bools]:
        now = self.now_ms()
        oldest, latest = now - round(self.options.max_age * 1000), now + round(self.options.max_future * 1000)
        return {
            f"their time is more than {self.options.max_age:g} s ago": ts < oldest,
            f"their time is more than {self.options.max_future:g} s in the future": ts > latest,
        }

    def _announcements(self, which: Ints, ts: Ints) -> dict[str, pa.Table]:
        """Return the rows that say what the series are, where this period does not say so yet."""
        periods = ts // tables.PERIOD_MS
        new = self.index.announced[which] != periods
        if not new.any():
            return {}
        pairs: dict[tuple[int, int], int] = {}
        for slot, period, at in zip(which[new].tolist(), periods[new].tolist(), ts[new].tolist(), strict=True):
            pairs[slot, period] = at
        slots = [slot for slot, _ in pairs]
        ids = self.index.ids[slots].tolist()
        return {tables.SERIES: tables.series_table(ids, list(pairs.values()), self.index.of(slots))}

    def _descriptions(self, meta: Mapping[str, Meta], at: int) -> dict[str, Meta]:
        period = at // tables.PERIOD_MS
        if len(self.meta) >= MAX_METADATA:
            return {}
        return {name: one for name, one in meta.items() if self._described.get(name) != (period, one)} if at else {}

    def _note(self, described: Mapping[str, Meta], at: int) -> None:
        self.meta.update(described)
        self._described.update({name: (at // tables.PERIOD_MS, one) for name, one in described.items()})

    def _done(self, accepted: int, rejected: Mapping[str, int], durable_seq: int = 0) -> Stored:
        self.accepted += accepted
        for reason, count in rejected.items():
            # Without the name of who sends: a counter for each would itself be without bounds.
            self.rejected["time" if reason.startswith("their time") else "series"] += count
        return Stored(accepted, dict(rejected), durable_seq)


def _sifted(rows: pa.Table, ids: Ints) -> tuple[Ints, Ints, Floats]:
    """Return the samples of these series, of each the place of its series in `ids`, its time and its value."""
    found, ts, values = tables.read_samples(rows)
    order = np.argsort(ids)
    place = np.minimum(np.searchsorted(ids[order], found), len(ids) - 1)
    known = ids[order][place] == found
    row = order[place]
    if not known.all():
        row, ts, values = row[known], ts[known], values[known]
    return row, ts, values


def _block(labels: list[Any], row: Ints, ts: Ints, values: Floats) -> Block:
    """Return samples ordered by series and time; of several at one time the last one that is found."""
    behind = (row[1:] == row[:-1]) & (ts[1:] <= ts[:-1])
    if (row[1:] < row[:-1]).any() or behind.any():
        # By time, of which they are some stretches in order already; then by series, as 16 bits in linear time.
        order = np.argsort(ts, kind="stable")
        small = row.astype(np.uint16) if len(labels) < 1 << 16 else row
        order = order[np.argsort(small[order], kind="stable")]
        row, ts, values = row[order], ts[order], values[order]
        last = np.append((row[1:] != row[:-1]) | (ts[1:] != ts[:-1]), True)
        if not last.all():
            row, ts, values = row[last], ts[last], values[last]
    starts = np.searchsorted(row, np.arange(len(labels) + 1)).astype(np.int64)
    return Block(labels, starts, ts, values)
