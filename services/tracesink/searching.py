"""What a search of spans asks the store. Decides, and does no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mesh.api.tracesink.v1 import Span, TraceFilter
from services.sinks.errors import InvalidError
from services.sinks.searching import (
    Conditions,
    add_attributes,
    add_names,
    check_range,
    decoded,
    encoded,
    plain,
    where,
)
from services.storage.columns.base import ROW_ID, Scope
from services.tracesink.records import SPANS
from services.tracesink.semantics import CODES
from services.tracesink.trees import ERROR, GOOD_CODES

MAX_LIMIT = 1_000
DEFAULT_LIMIT = 20
# Of one trace.
MAX_SPANS = 10_000
# Spans that are looked at to find the newest traces, for each trace that is wanted, before all are.
NEWEST = 32
MAX_METHOD = 1_000
RESOURCE = "resource."

COLUMNS = ", ".join(SPANS.columns)
_LIGHT = (
    "trace_id, correlation_id, span_id, parent_span_id, start_ns, end_ns, service, name, kind, status, "
    "rpc_status_code, peer_service"
)
FAILED = f"(status = {ERROR} OR rpc_status_code NOT IN ({', '.join(map(repr, GOOD_CODES))}))"


@dataclass(frozen=True, slots=True)
class Query:
    """One SELECT for `ColumnStore.query`."""

    sql: str
    params: tuple[object, ...]
    scope: Scope
    # What the scope's rows are called in it.
    name: str = SPANS.name


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of traces ends: its last trace, and when the newest of its spans that were found began."""

    newest_ns: int
    trace_id: str

    def cursor(self) -> str:
        """Return it as a cursor."""
        return encoded(f"{self.newest_ns}.{self.trace_id}")

    @classmethod
    def of(cls, cursor: str) -> Place:
        """Read a cursor; raises `InvalidError`."""
        newest, _, found = decoded(cursor).partition(".")
        if not (newest.isascii() and newest.isdigit() and int(newest) < 2**63 and is_trace_id(found)):
            raise InvalidError("cursor: it is not one of this sink's")
        return cls(int(newest), found)


def is_trace_id(text: str) -> bool:
    """Tell whether a text can be a trace id: 32 hexadecimal digits in small letters, not all 0."""
    return len(text) == 32 and not set(text) - set("0123456789abcdef") and text != "0" * 32


def trace(trace_id: str, limit: int = MAX_SPANS + 1) -> Query:
    """Return the query for the spans of a trace, by their start."""
    if not is_trace_id(trace_id):
        raise InvalidError(f"trace_id: {trace_id[:64]!r} is no trace id: give 32 hexadecimal digits in small letters")
    scope = Scope(SPANS.name, key=("trace_id", trace_id))
    return Query(f"SELECT {COLUMNS} FROM {{spans}} ORDER BY start_ns, {ROW_ID} LIMIT {limit}", (), scope)


def page_size(limit: int) -> int:
    if limit > MAX_LIMIT:
        raise InvalidError(f"limit: {limit} is more than {MAX_LIMIT}")
    return limit or DEFAULT_LIMIT


def newest(filter_: TraceFilter, limit: int, *, jaeger: bool = False) -> Query:
    """Return the query for the newest spans that pass: their traces are in order, but there may be too few."""
    found = conditions(filter_, jaeger=jaeger)
    return Query(
        f"SELECT trace_id, start_ns AS newest FROM {{spans}}{where(found.texts)}"
        f" ORDER BY start_ns DESC, trace_id DESC LIMIT {limit * NEWEST}",
        tuple(found.params),
        scope_of(filter_),
    )


def page(filter_: TraceFilter, limit: int, after: Place | None, *, jaeger: bool = False) -> Query:
    """Return the query for the traces of a page, newest first, each by the newest of its spans that pass."""
    found = conditions(filter_, jaeger=jaeger)
    having = ""
    if after is not None:
        found.params += [after.newest_ns, after.trace_id]
        one, two = len(found.params) - 1, len(found.params)
        having = f" HAVING max(start_ns) < ${one} OR (max(start_ns) = ${one} AND trace_id < ${two})"
    return Query(
        f"SELECT trace_id, max(start_ns) AS newest FROM {{spans}}{where(found.texts)} GROUP BY trace_id{having}"
        f" ORDER BY newest DESC, trace_id DESC LIMIT {limit}",
        tuple(found.params),
        scope_of(filter_),
    )


def counts(trace_ids: Sequence[str]) -> Query:
    """Return the query for how many spans the traces have, how many failed, and from when to when they last."""
    sql = (
        f"SELECT trace_id, count(*) AS spans, count(*) FILTER (WHERE {FAILED}) AS errors, min(start_ns) AS start_ns,"
        " max(end_ns) AS end_ns FROM {spans} GROUP BY trace_id"
    )
    return Query(sql, (), Scope(SPANS.name, key=("trace_id", tuple(trace_ids))))


def light(trace_ids: Sequence[str]) -> Query:
    """Return the query for what a summary needs of the spans of traces, by their start."""
    numbered = f"row_number() OVER (PARTITION BY trace_id ORDER BY start_ns, {ROW_ID}) AS place"
    sql = (
        f"SELECT {_LIGHT} FROM (SELECT {_LIGHT}, {numbered} FROM {{spans}}) AS numbered WHERE place <= {MAX_SPANS}"
        " ORDER BY trace_id, place"
    )
    return Query(sql, (), Scope(SPANS.name, key=("trace_id", tuple(trace_ids))))


def spans(table: pa.Table) -> list[Span]:
    """Return the rows of a query for `COLUMNS` as messages."""
    return [message(row) for row in table.to_pylist()]


def once(found: Sequence[Span]) -> list[Span]:
    """Return the spans without those that were sent again although they had arrived."""
    kept = {
        (one.trace_id, one.span_id, one.service, one.kind, one.start_ns, one.end_ns, one.name): one for one in found
    }
    return list(kept.values())


def message(row: dict[str, Any]) -> Span:
    """Return a row as a message."""
    return Span(**{name: value for name, value in row.items() if value is not None})


def scope_of(filter_: TraceFilter) -> Scope:
    """Return which rows the filter's ids and time range mean."""
    key = None
    if filter_.trace_id:
        key = ("trace_id", filter_.trace_id)
    elif filter_.correlation_id:
        key = ("correlation_id", filter_.correlation_id)
    return Scope(SPANS.name, filter_.start_ns or None, filter_.end_ns or None, key)


def check_scope(filter_: TraceFilter, *, ranged: bool = False) -> None:
    """Raise `InvalidError` unless the filter has a time range, or, where that will do, an id."""
    if not (filter_.start_ns and filter_.end_ns) and (ranged or not (filter_.correlation_id or filter_.trace_id)):
        ids = "" if ranged else ", or a correlation_id or trace_id"
        raise InvalidError(f"filter: give a time range (start_ns and end_ns){ids}")


def conditions(filter_: TraceFilter, *, jaeger: bool = False) -> Conditions:
    """Return conditions for all that `scope_of` does not say.

    As Jaeger asks, a method is a span's whole name, and a resource's attributes count as the span's.
    """
    check_range(filter_.start_ns, filter_.end_ns)
    found = Conditions()
    if filter_.trace_id and not is_trace_id(filter_.trace_id):
        raise InvalidError(f"filter.trace_id: {filter_.trace_id[:64]!r} is no trace id")
    plain(filter_.correlation_id, "correlation_id")
    if filter_.correlation_id and filter_.trace_id:
        found.add("correlation_id = {}", filter_.correlation_id)
    add_names(found, "service", filter_.services)
    add_names(found, "instance", filter_.instances)
    if filter_.method and jaeger:
        found.add("name = {}", plain(filter_.method, "method"))
    elif filter_.method:
        _add_method(found, plain(filter_.method, "method"))
    _add_durations(found, filter_.min_duration_ns, filter_.max_duration_ns)
    if filter_.errors:
        found.add(FAILED)
    if filter_.codes:
        names = [code.upper() for code in filter_.codes]
        if wrong := set(names) - set(CODES):
            raise InvalidError(f"filter.codes: {min(wrong)[:64]!r} is none of gRPC's: {', '.join(CODES)}")
        found.add("rpc_status_code = ANY({})", sorted(set(names)))
    add_attributes(found, filter_.attributes, also=RESOURCE if jaeger else "")
    return found


def _add_method(found: Conditions, method: str) -> None:
    if len(method) > MAX_METHOD:
        raise InvalidError(f"filter.method: {len(method)} characters are more than {MAX_METHOD}")
    method = method.removeprefix("/")
    ends, length = [f".{method}", f"/{method}"], len(method) + 1
    columns = ("name", "rpc_method")
    whole = [f"{column} = {{}}" for column in columns]
    ending = [f"right({column}, {length}) = ANY({{}})" for column in columns]
    found.add(f"({' OR '.join((*whole, *ending))})", method, method, ends, ends)


def _add_durations(found: Conditions, least: int, most: int) -> None:
    if least < 0 or most < 0 or (most and most < least):
        raise InvalidError("filter: min_duration_ns and max_duration_ns must not be negative, nor the first the larger")
    if least:
        found.add("end_ns - start_ns >= {}", least)
    if most:
        found.add("end_ns - start_ns <= {}", most)
