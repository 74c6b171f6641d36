"""Questions about many traces at once: who calls whom, and where the time goes. How many spans are read is bounded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mesh.api.tracesink.v1 import LatencyRequest, LatencyResponse, TopologyRequest, TopologyResponse
from mesh.clock import Clock
from mesh.edge import EDGE_SERVICE
from services.sinks.errors import InvalidError
from services.sinks.searching import check_range, where
from services.storage.columns.base import HOUR_NS, ROW_ID, ColumnStore, Scope
from services.tracesink import graph as graphs
from services.tracesink.graph import Graph, grouped
from services.tracesink.messages import Message, messages, origins
from services.tracesink.records import SPANS
from services.tracesink.searching import FAILED, check_scope, conditions, is_trace_id, scope_of
from services.tracesink.trees import CONSUMER

# Spans of a window that are looked at, the newest; and as many again of what its spans went on to call after it.
MAX_SPANS = 500_000
# How long after a window what its spans called is looked for.
AFTER_NS = HOUR_NS
MAX_ROWS = 1_000
MAX_EDGES = 5_000
# Consumers' spans, and traces in which the senders of their messages are looked for.
MAX_CONSUMERS = 50_000
MAX_SENDERS = 200_000

_METHOD = "CASE WHEN rpc_method <> '' THEN rpc_method ELSE name END"
_COLUMNS = (
    "trace_id, span_id, parent_span_id, start_ns, end_ns, service, "
    f"{_METHOD} AS method, kind, CASE WHEN {FAILED} THEN 1 ELSE 0 END AS failed, peer_service, {ROW_ID}"
)


@dataclass(frozen=True, slots=True)
class _Window:
    """The spans of a time, and of what came after."""

    spans: pa.Table
    looked_at: int
    truncated: bool


class Analysis:
    """Asks the store, and counts in threads."""

    def __init__(self, store: ColumnStore, clock: Clock, max_spans: int = MAX_SPANS) -> None:
        self._store = store
        self._clock = clock
        self._max_spans = max_spans
        # Each holds hundreds of megabytes at worst.
        self._one_at_a_time = asyncio.Lock()

    async def topology(self, request: TopologyRequest) -> TopologyResponse:
        start, end = request.start_ns, request.end_ns or self._clock.wall_ns()
        if not start:
            raise InvalidError("start_ns: give a time range")
        check_range(start, end)
        async with self._one_at_a_time:
            scope = Scope(SPANS.name, start, end)
            window = await self._window(scope, "1")
            sent = await self._messages(scope)
            shown = request.proxies
            edges = await asyncio.to_thread(lambda: _edges(Graph.of(window.spans), sent, start, end, shown=shown))
        if request.service:
            edges = [edge for edge in edges if request.service in (edge.caller, edge.callee)]
        edges.sort(key=lambda edge: (-edge.calls, edge.caller, edge.callee, edge.messages))
        return TopologyResponse(edges=edges[:MAX_EDGES], spans=window.looked_at, truncated=window.truncated)

    async def latency(self, request: LatencyRequest) -> LatencyResponse:
        filter_ = request.filter
        check_scope(filter_, ranged=True)
        found = conditions(filter_)
        scope = scope_of(filter_)
        if scope.key is not None:  # its children may be of other conversations
            found.add(f"{scope.key[0]} = {{}}", *scope.values)
        wanted = f"CASE WHEN {' AND '.join(found.texts)} THEN 1 ELSE 0 END" if found.texts else "1"
        async with self._one_at_a_time:
            window = await self._window(Scope(SPANS.name, scope.start, scope.end), wanted, tuple(found.params))
            rows = await asyncio.to_thread(_latencies, window.spans)
        return LatencyResponse(rows=rows[:MAX_ROWS], spans=window.looked_at, truncated=window.truncated)

    async def _window(self, scope: Scope, wanted: str, params: tuple[object, ...] = ()) -> _Window:
        """Return the newest spans of a range, of which some are wanted, and what followed on them."""
        most = self._max_spans
        (count,) = (await self._ask("SELECT count(*) AS n FROM {spans}", (), scope))["n"].to_pylist()
        if count > most:
            newest = f"SELECT start_ns FROM {{spans}} ORDER BY start_ns DESC LIMIT {most}"
            (first,) = (await self._ask(f"SELECT min(start_ns) AS n FROM ({newest}) AS newest", (), scope))["n"]
            scope = Scope(scope.table, first.as_py(), scope.end)
        within = await self._ask(
            f"SELECT {_COLUMNS}, {wanted} AS wanted FROM {{spans}} ORDER BY start_ns DESC, {ROW_ID} DESC LIMIT {most}",
            params,
            scope,
        )
        end = scope.end or 0
        after = await self._ask(
            f"SELECT {_COLUMNS}, 0 AS wanted FROM {{spans}} ORDER BY start_ns, {ROW_ID} LIMIT {most}",
            (),
            Scope(scope.table, end, end + AFTER_NS),
        )
        both = pa.concat_tables([_narrow(within), _narrow(after)])
        return _Window(both, within.num_rows, count > most)

    async def _messages(self, scope: Scope) -> list[Message]:
        """Return the messages that were dealt with in a time; consumers name the spans that sent them."""
        columns = "trace_id, span_id, parent_span_id, start_ns, end_ns, service, links"
        consumers = await self._ask(
            f"SELECT {columns}, {FAILED} AS failed FROM {{spans}}{where([f'kind = {CONSUMER}'])}"
            f" ORDER BY start_ns DESC LIMIT {MAX_CONSUMERS}",
            (),
            scope,
        )
        rows = consumers.to_pylist()
        wanted = sorted({trace_id for row in rows for trace_id, _ in origins(row) if is_trace_id(trace_id)})
        if not wanted:
            return []
        senders = await self._ask(
            f"SELECT trace_id, span_id, service, kind, start_ns FROM {{spans}} WHERE kind <> {CONSUMER}"
            f" ORDER BY start_ns DESC LIMIT {MAX_SENDERS}",
            (),
            Scope(SPANS.name, key=("trace_id", tuple(wanted))),
        )
        return messages(rows, senders.to_pylist())

    async def _ask(self, sql: str, params: tuple[object, ...], scope: Scope) -> pa.Table:
        return await self._store.query(sql, params, {"spans": scope})


def _narrow(table: pa.Table) -> pa.Table:
    """Return the table with numbers alike, whatever the database takes for them."""
    types = {
        name: pa.string() for name in ("trace_id", "span_id", "parent_span_id", "service", "method", "peer_service")
    }
    return table.cast(pa.schema([(name, types.get(name, pa.int64())) for name in table.column_names]))


def _edges(graph: Graph, sent: list[Message], start: int, end: int, *, shown: bool) -> list[TopologyResponse.Edge]:
    found = graphs.calls(graph, start, end, EDGE_SERVICE, shown=shown)
    edges = [
        _edge(group, graph.names[group.key[0]], graph.names[group.key[1]], sent=False)
        for group in grouped((found.caller, found.callee), found.failed, found.duration)
    ]
    if sent:
        names = sorted({name for one in sent for name in (one.sender, one.receiver)})
        places = {name: place for place, name in enumerate(names)}
        groups = grouped(
            (
                np.array([places[one.sender] for one in sent]),
                np.array([places[one.receiver] for one in sent]),
            ),
            np.array([one.failed for one in sent]),
            np.array([one.duration_ns for one in sent], np.int64),
        )
        edges += [_edge(group, names[group.key[0]], names[group.key[1]], sent=True) for group in groups]
    return edges


def _edge(group: graphs.Group, caller: str, callee: str, *, sent: bool) -> TopologyResponse.Edge:
    p50, p95, p99 = group.quantiles
    return TopologyResponse.Edge(
        caller=caller,
        callee=callee,
        calls=group.count,
        errors=group.failed,
        p50_ns=p50,
        p95_ns=p95,
        p99_ns=p99,
        messages=sent,
    )


def _latencies(table: pa.Table) -> list[LatencyResponse.Row]:
    graph = Graph.of(table)
    alone = graphs.self_times(graph)
    coded = graph.method.dictionary_encode()
    methods = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    wanted = np.flatnonzero(graph.wanted)
    keys = (graphs.blamed(graph, EDGE_SERVICE)[wanted], methods[wanted])
    whole = grouped(keys, graph.failed[wanted], graph.duration[wanted])
    # The groups come in one order, by their keys.
    parts = grouped(keys, graph.failed[wanted], alone[wanted])
    rows = [
        LatencyResponse.Row(
            service=graph.names[one.key[0]],
            method=coded.dictionary[one.key[1]].as_py(),
            calls=one.count,
            errors=one.failed,
            total_ns=one.total,
            self_ns=part.total,
            p50_ns=one.quantiles[0],
            p95_ns=one.quantiles[1],
            p99_ns=one.quantiles[2],
            self_p95_ns=part.quantiles[1],
        )
        for one, part in zip(whole, parts, strict=True)
    ]
    rows.sort(key=lambda row: (-row.self_ns, row.service, row.method))
    return rows
