"""The log sink on a columnar store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass

import pyarrow as pa

from mesh.api.logsink.v1 import (
    FieldsResponse,
    Filter,
    HistogramResponse,
    LogRecord,
    SearchResponse,
    TailResponse,
)
from mesh.clock import Clock, SystemClock
from services.forwarding.forwarding import Forwarding
from services.forwarding.options import Signal
from services.forwarding.origin import UNKNOWN, Origin
from services.logsink import otlp, records, searching
from services.logsink.records import LOGS
from services.logsink.searching import InvalidError, Query
from services.sinks.decoding import Decoder
from services.sinks.messages import Fields
from services.storage.columns.base import DAY_NS, Appended, BatchError, ColumnStore, QueryError

# How many records of a tail are read, and sent, at once: the bound of what one tailer costs.
TAIL_PAGE = 500
MAX_BACKLOG = 1_000
# How far back a tail looks for its backlog.
BACKLOG_NS = DAY_NS
# A tail looks this often even if this process has stored nothing: others may have, on a shared server.
TAIL_POLL = 1.0
# And not more often than this, so that many tails and many small commits do not become many queries.
TAIL_PAUSE = 0.1
# A query that takes longer is given up.
QUERY_SECONDS = 30.0


@dataclass
class Counters:
    """What came in since the start."""

    records: int = 0
    # Refused as malformed, with all the batch had.
    rejected_batches: int = 0
    # Whose own time made no sense: they have the time of their arrival.
    absurd_times: int = 0
    # Bodies or attributes that were too long.
    cut: int = 0
    # Messages that were none, that were too long, and that were to be sent again later.
    undecodable: int = 0
    too_large: int = 0
    pushed_back: int = 0


class LogSink:
    """Stores and finds log records."""

    def __init__(self, store: ColumnStore, clock: Clock | None = None, forwarding: Forwarding | None = None) -> None:
        """Store in `store`, and tell `forwarding` of what was stored."""
        self._store = store
        self.forwarding = forwarding
        self._clock = clock or SystemClock()
        self.counters = Counters()
        self._decoder = Decoder("logs-decode")

    async def durable_seq(self, producer: str) -> int:
        return await self._store.durable_seq(producer) or 0

    async def push(self, batch: Fields, producer: str, seq: int, after: int) -> Appended:
        """Store a batch; raises what `ColumnStore.append` does."""
        try:
            table, absurd = records.from_batch(batch, self._clock.wall_ns())
            done = await self._store.append({LOGS.name: table}, producer=producer, seq=seq, after=after)
        except BatchError:
            self.counters.rejected_batches += 1
            raise
        if not done.duplicate:
            self.counters.absurd_times += absurd
            self.counters.records += table.num_rows
            if self.forwarding is not None and self.forwarding.wants(Signal.LOGS):
                self.forwarding.rows(Signal.LOGS, table)
        return done

    async def export(self, data: bytes, origin: Origin = UNKNOWN) -> int:
        """Store OpenTelemetry's records, an encoded export of logs; returns how many were cut.

        What another control process has sent on under one number of its `origin` is stored once.

        Raises what `ColumnStore.append` does, and `DecodeError`.
        """
        try:
            table, absurd, cut = await self._decoder.run(self._decoded, data)
        except BatchError:
            self.counters.rejected_batches += 1
            raise
        if not table.num_rows:
            return 0
        done = await self._store.append({LOGS.name: table}, producer=origin.producer, seq=origin.seq, json_known=True)
        if done.duplicate:
            return cut
        if self.forwarding is not None and self.forwarding.wants(Signal.LOGS):
            self.forwarding.otlp(Signal.LOGS, data, table.num_rows, origin.via)
        self.counters.records += table.num_rows
        self.counters.absurd_times += absurd
        self.counters.cut += cut
        return cut

    async def search(self, filter_: Filter, limit: int, cursor: str, *, oldest_first: bool) -> SearchResponse:
        size = searching.page_size(limit)
        found = await self._records(searching.search(filter_, size, cursor, oldest_first=oldest_first))
        count = searching.fitting(found[:size])
        more = len(found) > count
        found = found[:count]
        return SearchResponse(records=found, cursor=searching.cursor_of(found[-1]) if more else "")

    async def tail(self, filter_: Filter, cursor: str, backlog: int) -> AsyncGenerator[TailResponse, None]:
        """Yield records as they are stored; the first reply has the backlog, or none."""
        if backlog > MAX_BACKLOG:
            raise InvalidError(f"backlog: {backlog} is more than {MAX_BACKLOG}")
        if cursor:
            place = searching.row_of(cursor)
            first: list[LogRecord] = []
        else:
            place = await self._store.committed(0, 0)
            since = self._clock.wall_ns() - BACKLOG_NS
            first = await self._records(searching.backlog(filter_, backlog, since)) if backlog else []
            first = first[: searching.fitting(first)]
            first.reverse()
            place = max(place, first[-1].row_id if first else 0)
        yield TailResponse(records=first, cursor=searching.row_cursor(place))
        del first
        while True:
            # What is committed before the query is in it, so the place may move on to there even if nothing matched.
            last = await self._store.committed(place, TAIL_POLL)
            found = await self._records(searching.tail(filter_, place, TAIL_PAGE))
            if found:
                count = searching.fitting(found)
                full = len(found) == TAIL_PAGE or count < len(found)
                found = found[:count]
                place = found[-1].row_id if full else max(found[-1].row_id, last)
                yield TailResponse(records=found, cursor=searching.row_cursor(place))
                if full:
                    continue
            else:
                place = max(place, last)
            del found
            await asyncio.sleep(TAIL_PAUSE)

    async def histogram(self, filter_: Filter, step_ns: int) -> HistogramResponse:
        query, step = searching.histogram(filter_, step_ns)
        return searching.counted(await self._query(query), step)

    async def fields(self, filter_: Filter) -> FieldsResponse:
        return searching.described(await self._query(searching.fields(filter_)))

    def stats(self) -> dict[str, float]:
        return {**asdict(self.counters), **{f"store_{name}": value for name, value in self._store.stats.items()}}

    def _decoded(self, data: bytes) -> tuple[pa.Table, int, int]:
        read = otlp.from_export(data, self._clock.wall_ns())
        return read.table, read.absurd, read.cut

    async def _records(self, query: Query) -> list[LogRecord]:
        return searching.records(await self._query(query))

    async def _query(self, query: Query) -> pa.Table:
        async with asyncio.timeout(QUERY_SECONDS):
            try:
                return await self._store.query(query.sql, query.params, {"logs": query.scope})
            except QueryError as error:
                if searching.MATCHES not in query.sql:
                    raise
                # The database knows its kind of expressions; without its own name for errors.
                raise InvalidError(f"filter.regex: {str(error).rpartition('Error: ')[2]}") from error
