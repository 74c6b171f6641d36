"""A trace in a few words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from mesh.api.tracesink.v1 import TraceSummary
from services.tracesink.trees import blamed, parents, roots

# Spans whose rows are read for one page of summaries.
MAX_ROWS = 200_000


class Light(NamedTuple):
    """What a summary needs of a span."""

    trace_id: str
    correlation_id: str
    span_id: str
    parent_span_id: str
    start_ns: int
    end_ns: int
    service: str
    name: str
    kind: int
    status: int
    rpc_status_code: str
    peer_service: str


def readable(trace_ids: Sequence[str], counts: Mapping[str, Mapping[str, Any]], most: int) -> int:
    """Return of how many of the traces the spans may be read at once, of each at most `most`; at least one."""
    total = 0
    for place, trace_id in enumerate(trace_ids):
        total += min(counts[trace_id]["spans"], most)
        if total > MAX_ROWS and place:
            return place
    return len(trace_ids)


def told(table: pa.Table, counts: Mapping[str, Mapping[str, Any]]) -> dict[str, TraceSummary]:
    """Return summaries by trace id, from rows in the order of their traces and times."""
    return {trace_id: summary(spans, counts[trace_id]) for trace_id, spans in by_traces(table).items()}


def by_traces(table: pa.Table) -> dict[str, list[Light]]:
    """Return rows by trace id, in their order."""
    found: dict[str, list[Light]] = {}
    for row in _rows(table):
        found.setdefault(row.trace_id, []).append(row)
    return found


def summary(spans: Sequence[Light], count: Mapping[str, Any]) -> TraceSummary:
    """Return what is told of a trace: of its first spans, in the order of their times, and of how many there are."""
    above = parents(spans)
    root = spans[roots(spans, above)[0]]
    service, name = blamed(spans, above)
    return TraceSummary(
        trace_id=root.trace_id,
        correlation_id=_own([root, *spans]) or root.trace_id,
        start_ns=count["start_ns"],
        duration_ns=count["end_ns"] - count["start_ns"],
        root_service=root.service,
        root_name=root.name,
        root_status_code=root.rpc_status_code,
        spans=count["spans"],
        errors=count["errors"],
        services=dict.fromkeys(span.service for span in spans),
        culprit_service=service,
        culprit_name=name,
    )


def _own(spans: Iterable[Light]) -> str:
    """Return the first correlation id that is no trace id."""
    return next((span.correlation_id for span in spans if span.correlation_id != span.trace_id), "")


def _rows(table: pa.Table) -> Iterator[Light]:
    columns = (table[name].to_pylist() for name in Light._fields)
    return map(Light._make, zip(*columns, strict=True))
