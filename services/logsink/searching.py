"""What a search, tail or count of log records asks the store. Decides, and does no I/O."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mesh.api.logsink.v1 import FieldsResponse, Filter, HistogramResponse, LogRecord
from services.logsink.records import LOGS
from services.sinks.errors import InvalidError
from services.sinks.searching import (
    Conditions,
    add_attributes,
    add_names,
    check_range,
    fitting,
    plain,
    read_cursor,
    where,
    write_cursor,
)
from services.storage.columns.base import ROW_ID, Scope

__all__ = ["InvalidError", "Query", "fitting"]

MAX_LIMIT = 5_000
DEFAULT_LIMIT = 100
MAX_PATTERN = 1_000
# How a condition on the message begins.
MATCHES = "body ~"
MAX_BUCKETS = 10_000
BUCKETS = 60
# How many records Fields looks at, and how many values it tells of each.
SAMPLE = 10_000
TOP = 10

COLUMNS = ", ".join((*LOGS.columns, ROW_ID))
_NAMED = ("service", "instance", "severity_text", "version", "scope", "event_name")


@dataclass(frozen=True, slots=True)
class Query:
    """One SELECT for `ColumnStore.query`, whose rows are those of `logs`."""

    sql: str
    params: tuple[object, ...]
    scope: Scope


def search(filter_: Filter, limit: int, cursor: str, *, oldest_first: bool) -> Query:
    """Return the query for a page; it asks for one record more than `limit`, to see whether there is a next page."""
    if not (filter_.correlation_id or filter_.trace_id or (filter_.start_ns and filter_.end_ns)):
        raise InvalidError("filter: give a time range (start_ns and end_ns), or a correlation_id or trace_id")
    scope = _scope(filter_)
    conditions, params = _conditions(filter_)
    order, than = ("ASC", ">") if oldest_first else ("DESC", "<")
    if cursor:
        ts, row = read_cursor(cursor, 2)
        params += [ts, row]
        first, second = len(params) - 1, len(params)
        conditions.append(f"(ts_ns {than} ${first} OR (ts_ns = ${first} AND {ROW_ID} {than} ${second}))")
        narrowed = (
            Scope(scope.table, max(ts, scope.start or ts), scope.end, scope.key)
            if oldest_first
            else Scope(scope.table, scope.start, min(ts + 1, scope.end or ts + 1), scope.key)
        )
        scope = narrowed
    sql = (
        f"SELECT {COLUMNS} FROM {{logs}}{where(conditions)} ORDER BY ts_ns {order}, {ROW_ID} {order} LIMIT {limit + 1}"
    )
    return Query(sql, tuple(params), scope)


def tail(filter_: Filter, after_row: int, limit: int) -> Query:
    """Return the query for the records that were stored after a row, in that order."""
    conditions, params = _conditions(filter_)
    scope = Scope(LOGS.name, key=_key(filter_), after_row=after_row)
    return Query(
        f"SELECT {COLUMNS} FROM {{logs}}{where(conditions)} ORDER BY {ROW_ID} LIMIT {limit}", tuple(params), scope
    )


def backlog(filter_: Filter, count: int, since_ns: int) -> Query:
    """Return the query for the last records that were stored, last first, of those since a time."""
    conditions, params = _conditions(filter_)
    scope = Scope(LOGS.name, start=since_ns, key=_key(filter_))
    return Query(
        f"SELECT {COLUMNS} FROM {{logs}}{where(conditions)} ORDER BY {ROW_ID} DESC LIMIT {count}", tuple(params), scope
    )


def histogram(filter_: Filter, step_ns: int) -> tuple[Query, int]:
    """Return the query for counts by time and class of severity, and the length of a bucket."""
    if not 0 < filter_.start_ns < filter_.end_ns:
        raise InvalidError("filter: give start_ns and a later end_ns")
    length = filter_.end_ns - filter_.start_ns
    step = step_ns or max(1, -(-length // BUCKETS))
    if step < 0 or length // step > MAX_BUCKETS:
        raise InvalidError(f"step_ns: {step} makes more than {MAX_BUCKETS} buckets")
    conditions, params = _conditions(filter_)
    sql = (
        f"SELECT ts_ns - ts_ns % {step} AS start, severity_number, count(*) AS n FROM {{logs}}{where(conditions)}"
        " GROUP BY 1, 2 ORDER BY 1"
    )
    return Query(sql, tuple(params), _scope(filter_)), step


def fields(filter_: Filter) -> Query:
    """Return the query for the newest records of a range."""
    if not 0 < filter_.start_ns < filter_.end_ns:
        raise InvalidError("filter: give start_ns and a later end_ns")
    conditions, params = _conditions(filter_)
    sql = (
        f"SELECT {', '.join(_NAMED)}, attributes FROM {{logs}}{where(conditions)}"
        f" ORDER BY ts_ns DESC, {ROW_ID} DESC LIMIT {SAMPLE}"
    )
    return Query(sql, tuple(params), _scope(filter_))


def page_size(limit: int) -> int:
    if limit > MAX_LIMIT:
        raise InvalidError(f"limit: {limit} is more than {MAX_LIMIT}")
    return limit or DEFAULT_LIMIT


def records(table: pa.Table) -> list[LogRecord]:
    """Return the rows of a query for `COLUMNS` as messages."""
    return [LogRecord(**{name: value for name, value in row.items() if value is not None}) for row in table.to_pylist()]


def cursor_of(record: LogRecord) -> str:
    return write_cursor(record.ts_ns, record.row_id)


def row_cursor(row: int) -> str:
    return write_cursor(row)


def row_of(cursor: str) -> int:
    return read_cursor(cursor, 1)[0]


def counted(table: pa.Table, step: int) -> HistogramResponse:
    """Return the buckets; severities count to the first of their class."""
    reply = HistogramResponse(step_ns=step)
    for start, severity, count in zip(*(column.to_pylist() for column in table.columns), strict=True):
        if not reply.buckets or reply.buckets[-1].start_ns != start:
            reply.buckets.add(start_ns=start)
        level = (severity - 1) // 4 * 4 + 1 if severity else 0
        reply.buckets[-1].counts[level] += count
    return reply


def described(table: pa.Table) -> FieldsResponse:
    """Return what the rows can be told apart by, attributes in the order of how many have them."""
    reply = FieldsResponse(records=table.num_rows)
    for name in _NAMED:
        values = Counter(value for value in table.column(name).to_pylist() if value)
        _describe(reply, name, values, attribute=False)
    found: dict[str, Counter[str]] = {}
    for text, count in Counter(table.column("attributes").to_pylist()).items():
        for name, value in _object(text).items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.setdefault(name, Counter())[shown[:255]] += count
    most = sorted(found.items(), key=lambda one: (-one[1].total(), one[0]))
    for name, values in most[:1000]:
        _describe(reply, name, values, attribute=True)
    return reply


def _describe(reply: FieldsResponse, name: str, values: Counter[str], *, attribute: bool) -> None:
    if values:
        field = reply.fields.add(name=name, attribute=attribute, count=values.total())
        for text, count in values.most_common(TOP):
            field.values.add(text=text, count=count)


def _object(text: str | None) -> dict[str, Any]:
    try:
        tree = json.loads(text or "{}")
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _scope(filter_: Filter) -> Scope:
    return Scope(LOGS.name, filter_.start_ns or None, filter_.end_ns or None, _key(filter_))


def _key(filter_: Filter) -> tuple[str, str] | None:
    if filter_.correlation_id:
        return ("correlation_id", filter_.correlation_id)
    return ("trace_id", filter_.trace_id) if filter_.trace_id else None


def _conditions(filter_: Filter) -> tuple[list[str], list[object]]:
    """Return conditions and their parameters for all that a scope does not say."""
    check_range(filter_.start_ns, filter_.end_ns)
    found = Conditions()
    if filter_.correlation_id and filter_.trace_id:
        found.add("trace_id = {}", filter_.trace_id)
    add_names(found, "service", filter_.services)
    add_names(found, "instance", filter_.instances)
    if filter_.min_severity:
        found.add("severity_number >= {}", filter_.min_severity)
    _add_patterns(found, filter_)
    add_attributes(found, filter_.attributes)
    return found.texts, found.params


def _add_patterns(found: Conditions, filter_: Filter) -> None:
    for name, pattern in (("text", filter_.text), ("regex", filter_.regex)):
        if len(pattern) > MAX_PATTERN:
            raise InvalidError(f"filter.{name}: {len(pattern)} characters are more than {MAX_PATTERN}")
    if filter_.text:
        text = plain(filter_.text, "text")
        escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        # Only where it must be: DuckDB is slower with it.
        found.add("body ILIKE {} ESCAPE '\\'" if escaped != text else "body ILIKE {}", f"%{escaped}%")
    if filter_.regex:
        found.add(f"{MATCHES} {{}}", plain(filter_.regex, "regex"))
