"""The standard span as a table, and batches that come in brought into its form. Decides, and does no I/O."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.sinks.columns import (
    AHEAD_NS,
    ORIGINAL_TIME,
    check_length,
    count_of,
    distinct,
    filled,
    json_text,
    noted,
    numbers,
    shortened,
    text,
)
from services.sinks.messages import Fields
from services.storage.columns.base import BatchError, TableSchema, Type

SPANS = TableSchema(
    "spans",
    {
        "start_ns": Type.BIGINT,
        "end_ns": Type.BIGINT,
        "trace_id": Type.TEXT,
        "span_id": Type.TEXT,
        "parent_span_id": Type.TEXT,
        "name": Type.TEXT,
        "kind": Type.BIGINT,
        "status": Type.BIGINT,
        "status_message": Type.TEXT,
        "service": Type.TEXT,
        "instance": Type.TEXT,
        "version": Type.TEXT,
        "scope": Type.TEXT,
        "correlation_id": Type.TEXT,
        "rpc_method": Type.TEXT,
        "rpc_status_code": Type.TEXT,
        "peer_service": Type.TEXT,
        "trace_state": Type.TEXT,
        "flags": Type.BIGINT,
        "attributes": Type.JSON,
        "events": Type.JSON,
        "links": Type.JSON,
        "dropped": Type.BIGINT,
    },
    time="start_ns",
    keys=("correlation_id", "trace_id"),
)

MAX_KIND = 5
MAX_STATUS = 2
# Of a name, a label or a message, in bytes: what is longer is cut. Attributes, events and links may have more.
MAX_NAME = 8 << 10
# The attribute in which the end of a span is kept whose times made no sense; its start is in `mesh.time_ns`.
ORIGINAL_END = "mesh.end_ns"

_TRACE_ID, _SPAN_ID = "[0-9a-f]{32}", "[0-9a-f]{16}"
_LABELS = ("service", "instance", "version", "scope", "rpc_method", "rpc_status_code", "peer_service", "trace_state")
_TEXTS = (*_LABELS, "name", "status_message", "correlation_id")


def from_batch(batch: Fields, now_ns: int) -> tuple[pa.Table, int]:
    """Return the rows of a SpanBatch that arrives at `now_ns`, and how many of them had absurd times.

    Raises:
        BatchError: its columns are of different lengths, or hold what they may not.

    """
    rows = count_of(batch, "start_ns", "spans")
    found: dict[str, Any] = {name: shortened(text(batch, rows, name), MAX_NAME) for name in _TEXTS}
    for name, pattern in (
        ("trace_id", f"^{_TRACE_ID}$"),
        ("span_id", f"^{_SPAN_ID}$"),
        ("parent_span_id", f"^({_SPAN_ID})?$"),
    ):
        found[name] = _ids(text(batch, rows, name), name, pattern)
    for name, default in (("attributes", "{}"), ("events", "[]"), ("links", "[]")):
        found[name] = json_text(batch, rows, name, default)
        check_length(name, found[name])
    for name, most in (("kind", MAX_KIND), ("status", MAX_STATUS), ("flags", None), ("dropped", None)):
        found[name] = numbers(batch, rows, name, most=most)
    found["start_ns"] = numbers(batch, rows, "start_ns")
    found["end_ns"] = numbers(batch, rows, "end_ns")
    return finished(found, now_ns)


def finished(columns: dict[str, Any], now_ns: int) -> tuple[pa.Table, int]:
    """Return the rows with their times mended and correlation ids filled in, and how many had absurd times.

    A start that makes no sense becomes such that the span ends as it arrives, and is as long as it was. An end before
    its start, or in the future, becomes the start. What the span said goes to its attributes.
    """
    start, end = columns["start_ns"], columns["end_ns"]
    oldest, newest = now_ns - round(SPANS.max_age * 1e9), now_ns + AHEAD_NS
    lost = (start < oldest) | (start > newest)
    endless = (end < start) | (end > newest)
    attributes = columns["attributes"]
    if count := int((lost | endless).sum()):
        length = np.maximum(end, 0) - np.maximum(start, 0)
        length = np.where((length < 0) | (length > now_ns - oldest), 0, length)
        notes = {
            int(row): f'"{ORIGINAL_TIME}":{int(start[row])},"{ORIGINAL_END}":{int(end[row])}'
            for row in np.flatnonzero(lost | endless)
        }
        attributes = noted(attributes, notes)
        start, end = (
            np.where(lost, now_ns - length, start),
            np.where(lost, now_ns, np.where(endless, start, end)),
        )
    ids = filled(columns["correlation_id"], columns["trace_id"])
    columns = columns | {"start_ns": start, "end_ns": end, "attributes": attributes, "correlation_id": ids}
    return pa.table([columns[name] for name in SPANS.columns], names=list(SPANS.columns)), count


def _ids(column: pa.Array, name: str, pattern: str) -> pa.Array:
    values = distinct(column)
    right = pc.and_not(pc.match_substring_regex(values, pattern), pc.match_substring_regex(values, "^0+$"))
    if len(column) and not pc.all(right).as_py():
        wrong = values.filter(pc.invert(right))[0].as_py()
        raise BatchError(f"{name}: {wrong[:64]!r} is no id: give {32 if name == 'trace_id' else 16} hexadecimal digits")
    return column
