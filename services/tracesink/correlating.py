"""Everything that happened under one correlation id. Decides, and does no I/O.

What bears the id belongs to it; so does what is of the same traces and bears none of its own (its trace id stands
there), because some services know OpenTelemetry alone.
"""

from __future__ import annotations

import pyarrow as pa

from mesh.api.tracesink.v1 import GetCorrelationResponse
from services.logsink import searching as logs
from services.logsink.records import LOGS
from services.sinks.errors import InvalidError
from services.sinks.searching import plain
from services.storage.columns.base import ROW_ID, Scope
from services.tracesink import searching
from services.tracesink.records import SPANS
from services.tracesink.searching import Query

MAX_LIMIT = 5_000
DEFAULT_LIMIT = 1_000
# Traces of one conversation whose spans and records without an id of their own are looked for.
MAX_TRACES = 100

_TABLES = ((SPANS.name, "start_ns", searching.COLUMNS), (LOGS.name, "ts_ns", logs.COLUMNS))


def page_size(correlation_id: str, limit: int) -> int:
    if not correlation_id:
        raise InvalidError("correlation_id: give one")
    plain(correlation_id, "correlation_id")
    if limit > MAX_LIMIT:
        raise InvalidError(f"limit: {limit} is more than {MAX_LIMIT}")
    return limit or DEFAULT_LIMIT


def trace_queries(correlation_id: str) -> list[Query]:
    """Return the queries for the traces of the conversation, from its spans and its records, the first in time."""
    return [
        Query(
            f"SELECT trace_id, min({time}) AS first FROM {{{table}}} WHERE trace_id <> ''"
            f" GROUP BY trace_id ORDER BY first LIMIT {MAX_TRACES}",
            (),
            Scope(table, key=("correlation_id", correlation_id)),
            table,
        )
        for table, time, _ in _TABLES
    ]


def traces(*found: pa.Table) -> list[str]:
    """Return the traces that the queries found."""
    return sorted({trace_id for table in found for trace_id in table["trace_id"].to_pylist()})[:MAX_TRACES]


def queries(correlation_id: str, trace_ids: list[str], size: int) -> list[Query]:
    """Return the queries for spans and records, the first in time, one more than `size` of each."""
    ids = tuple({correlation_id: None, **dict.fromkeys(trace_ids)})
    return [
        Query(
            # An id that is a trace's stands for spans that have none; it may be this conversation's own as well.
            f"SELECT {columns} FROM {{{table}}} WHERE correlation_id = $1 OR correlation_id = trace_id"
            f" ORDER BY {time}, {ROW_ID} LIMIT {size + 1}",
            (correlation_id,),
            Scope(table, key=("correlation_id", ids)),
            table,
        )
        for table, time, columns in _TABLES
    ]


def items(spans: pa.Table, records: pa.Table) -> list[GetCorrelationResponse.Item]:
    """Return them in the order of their times."""
    item = GetCorrelationResponse.Item
    found = [(span.start_ns, item(span=span)) for span in searching.once(searching.spans(spans))]
    found += [(record.ts_ns, item(record=record)) for record in logs.records(records)]
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]
