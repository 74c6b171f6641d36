"""The trace sink on a columnar store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from mesh.api.tracesink.v1 import (
    FindTracesResponse,
    GetCorrelationResponse,
    GetTraceResponse,
    LatencyRequest,
    LatencyResponse,
    Segment,
    Span,
    TopologyRequest,
    TopologyResponse,
    TraceFilter,
)
from mesh.clock import Clock, SystemClock
from services.forwarding.forwarding import Forwarding
from services.forwarding.options import Signal
from services.forwarding.origin import UNKNOWN, Origin
from services.sinks.decoding import Decoder
from services.sinks.errors import NotThereError
from services.sinks.messages import Fields
from services.sinks.searching import MAX_REPLY, fitting
from services.storage.columns.base import Appended, BatchError, ColumnStore
from services.tracesink import correlating, otlp, records, searching, summaries
from services.tracesink.analysis import Analysis
from services.tracesink.critical_path import critical_path
from services.tracesink.records import SPANS
from services.tracesink.searching import MAX_SPANS, Place, Query
from services.tracesink.trees import parents

MAX_PRODUCER = 255
# A query that takes longer is given up.
QUERY_SECONDS = 30.0
# What a segment of a path takes of a reply, in bytes.
_SEGMENT = 48


@dataclass
class Counters:
    """What came in since the start."""

    spans: int = 0
    # Refused as malformed, with all the batch had.
    rejected_batches: int = 0
    # Of OpenTelemetry's, without ids.
    rejected_spans: int = 0
    # Whose own times made no sense, and were mended.
    absurd_times: int = 0
    # Names, attributes, events or links that were too long.
    cut: int = 0
    # Messages that were none, that were too long, and that were to be sent again later.
    undecodable: int = 0
    too_large: int = 0
    pushed_back: int = 0


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of an export."""

    rejected: int
    cut: int


class TraceSink:
    """Stores and finds spans."""

    def __init__(self, store: ColumnStore, clock: Clock | None = None, forwarding: Forwarding | None = None) -> None:
        """Store in `store`, and tell `forwarding` of what was stored."""
        self._store = store
        self.forwarding = forwarding
        self._clock = clock or SystemClock()
        self.counters = Counters()
        self._decoder = Decoder("spans-decode")
        self._analysis = Analysis(store, self._clock)

    async def durable_seq(self, producer: str) -> int:
        return await self._store.durable_seq(_own(producer)) or 0

    async def push(self, batch: Fields, producer: str, seq: int, after: int) -> Appended:
        """Store a batch; raises what `ColumnStore.append` does."""
        try:
            table, absurd = records.from_batch(batch, self._clock.wall_ns())
            done = await self._store.append({SPANS.name: table}, producer=_own(producer), seq=seq, after=after)
        except BatchError:
            self.counters.rejected_batches += 1
            raise
        if not done.duplicate:
            self.counters.absurd_times += absurd
            self.counters.spans += table.num_rows
            if self.forwarding is not None and self.forwarding.wants(Signal.TRACES):
                self.forwarding.rows(Signal.TRACES, table)
        return done

    async def export(self, data: bytes, origin: Origin = UNKNOWN) -> Exported:
        """Store OpenTelemetry's spans, an encoded export of traces.

        What another control process has sent on under one number of its `origin` is stored once.

        Raises what `ColumnStore.append` does, and `DecodeError`.
        """
        try:
            table, absurd, done = await self._decoder.run(self._decoded, data)
        except BatchError:
            self.counters.rejected_batches += 1
            raise
        if table.num_rows:
            stored = await self._store.append(
                {SPANS.name: table}, producer=origin.producer, seq=origin.seq, json_known=True
            )
            if stored.duplicate:
                return done
            if self.forwarding is not None and self.forwarding.wants(Signal.TRACES):
                self.forwarding.otlp(Signal.TRACES, data, table.num_rows, origin.via)
        self.counters.spans += table.num_rows
        self.counters.absurd_times += absurd
        self.counters.rejected_spans += done.rejected
        self.counters.cut += done.cut
        return done

    async def trace(self, trace_id: str) -> GetTraceResponse:
        spans, truncated = await self.spans(trace_id)
        above = parents(spans)
        path = [
            Segment(span_id=spans[place].span_id, start_ns=start, end_ns=end)
            for place, start, end in critical_path(spans, above)
        ]
        room = max(MAX_REPLY - _SEGMENT * len(path), MAX_REPLY // 2)
        count = fitting(spans, room)
        path = path[: MAX_REPLY // 2 // _SEGMENT]
        return GetTraceResponse(spans=spans[:count], critical_path=path, truncated=truncated or count < len(spans))

    async def spans(self, trace_id: str) -> tuple[list[Span], bool]:
        """Return the spans of a trace, each once, by their start, and whether there are more.

        Raises:
            NotThereError: there is none.

        """
        table = await self.ask(searching.trace(trace_id))
        if not table.num_rows:
            raise NotThereError(f"there is no span of trace {trace_id}: it is not here yet, or no longer kept")
        spans = searching.once(searching.spans(table.slice(0, MAX_SPANS)))
        return spans, table.num_rows > MAX_SPANS

    async def find(self, filter_: TraceFilter, limit: int, cursor: str) -> FindTracesResponse:
        searching.check_scope(filter_)
        size = searching.page_size(limit)
        places = await self.places(filter_, size, Place.of(cursor) if cursor else None)
        more = len(places) > size
        places = places[:size]
        if not places:
            return FindTracesResponse()
        counts = await self.counts([place.trace_id for place in places])
        # Retention may have taken one meanwhile.
        known = [place for place in places if place.trace_id in counts]
        count = summaries.readable([place.trace_id for place in known], counts, MAX_SPANS)
        last = places[-1] if count == len(known) else known[count - 1]
        table = await self.ask(searching.light([place.trace_id for place in known[:count]]))
        told = await asyncio.to_thread(summaries.told, table, counts)
        listed = [(place, told[place.trace_id]) for place in known[:count] if place.trace_id in told]
        fits = fitting([trace for _, trace in listed])
        if fits < len(listed):
            last = listed[fits - 1][0]
        more = more or last is not places[-1]
        return FindTracesResponse(traces=[trace for _, trace in listed[:fits]], cursor=last.cursor() if more else "")

    async def counts(self, trace_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return by trace how many spans it has, how many failed, and its times; without those that are gone."""
        rows = await self.ask(searching.counts(trace_ids))
        return {row["trace_id"]: row for row in rows.to_pylist()}

    async def places(
        self, filter_: TraceFilter, size: int, after: Place | None, *, jaeger: bool = False
    ) -> list[Place]:
        """Return the next traces with a span that passes, newest first: one more than `size` if there are more."""
        if after is None:
            table = await self.ask(searching.newest(filter_, size + 1, jaeger=jaeger))
            found: dict[str, Place] = {}
            for newest, trace_id in zip(table["newest"].to_pylist(), table["trace_id"].to_pylist(), strict=True):
                found.setdefault(trace_id, Place(newest, trace_id))
            if len(found) > size or table.num_rows < (size + 1) * searching.NEWEST:
                return list(found.values())[: size + 1]
        table = await self.ask(searching.page(filter_, size + 1, after, jaeger=jaeger))
        return [Place(row["newest"], row["trace_id"]) for row in table.to_pylist()]

    async def correlation(self, correlation_id: str, limit: int) -> GetCorrelationResponse:
        size = correlating.page_size(correlation_id, limit)
        traces = correlating.traces(*[await self.ask(query) for query in correlating.trace_queries(correlation_id)])
        found = [await self.ask(query) for query in correlating.queries(correlation_id, traces, size)]
        items = correlating.items(*found)
        fits = min(size, fitting(items))
        return GetCorrelationResponse(items=items[:fits], truncated=fits < len(items))

    async def topology(self, request: TopologyRequest) -> TopologyResponse:
        async with asyncio.timeout(QUERY_SECONDS):
            return await self._analysis.topology(request)

    async def latency(self, request: LatencyRequest) -> LatencyResponse:
        async with asyncio.timeout(QUERY_SECONDS):
            return await self._analysis.latency(request)

    async def ask(self, query: Query) -> pa.Table:
        """Run a query; raises what `ColumnStore.query` does, and TimeoutError."""
        async with asyncio.timeout(QUERY_SECONDS):
            return await self._store.query(query.sql, query.params, {query.name: query.scope})

    def stats(self) -> dict[str, float]:
        return {**asdict(self.counters), **{f"store_{name}": value for name, value in self._store.stats.items()}}

    def _decoded(self, data: bytes) -> tuple[pa.Table, int, Exported]:
        read = otlp.from_export(data, self._clock.wall_ns())
        return read.table, read.absurd, Exported(read.rejected, read.cut)


def _own(producer: str) -> str:
    """Return the producer's name in the store: it may push logs as well, counted for themselves."""
    if len(producer) > MAX_PRODUCER:
        raise BatchError(f"a producer's name has at most {MAX_PRODUCER} characters")
    if len(name := f"{SPANS.name}/{producer}") > MAX_PRODUCER:
        name = f"{name[:200]}~{hashlib.sha256(producer.encode()).hexdigest()[:32]}"
    return name
