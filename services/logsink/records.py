"""The standard log record as a table, and batches that come in brought into its form. Decides, and does no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mesh.api.logsink.v1 import LogBatch, TextColumn
from services.storage.columns.base import DAY_NS, BatchError, TableSchema, Type

LOGS = TableSchema(
    "logs",
    {
        "ts_ns": Type.BIGINT,
        "observed_ns": Type.BIGINT,
        "severity_number": Type.BIGINT,
        "severity_text": Type.TEXT,
        "body": Type.TEXT,
        "event_name": Type.TEXT,
        "trace_id": Type.TEXT,
        "span_id": Type.TEXT,
        "flags": Type.BIGINT,
        "correlation_id": Type.TEXT,
        "service": Type.TEXT,
        "instance": Type.TEXT,
        "version": Type.TEXT,
        "scope": Type.TEXT,
        "attributes": Type.JSON,
        "dropped_attributes": Type.BIGINT,
    },
    keys=("correlation_id", "trace_id"),
)

# A clock may be ahead so much. What is further, or older than records are kept, gets the time of its arrival.
AHEAD_NS = DAY_NS
# The attribute in which such a record's own time is kept.
ORIGINAL_TIME = "mesh.time_ns"

MAX_RECORDS = 200_000
# Of a body or of the attributes of one record, in bytes of UTF-8.
MAX_TEXT = 1 << 20
MAX_SEVERITY = 24

_TEXTS = ("severity_text", "event_name", "trace_id", "span_id", "service", "instance", "version", "scope")


def from_batch(batch: LogBatch, now_ns: int) -> tuple[pa.Table, int]:
    """Return the rows of a batch that arrives at `now_ns`, and how many of them had an absurd time.

    Raises:
        BatchError: its columns are of different lengths, or hold what they may not.

    """
    rows = len(batch.ts_ns)
    if rows > MAX_RECORDS:
        raise BatchError(f"a batch has at most {MAX_RECORDS} records, this one {rows}")
    texts = {name: _text(getattr(batch, name), rows, name) for name in (*_TEXTS, "body", "correlation_id")}
    attributes = _text(batch.attributes, rows, "attributes", "{}")
    distinct = _distinct(attributes)
    if distinct and not pc.all(pc.starts_with(distinct, "{"), min_count=0).as_py():
        raise BatchError("attributes: each must be a JSON object")
    for name, column in (("body", texts["body"]), ("attributes", attributes)):
        longest = pc.max(pc.binary_length(_distinct(column))).as_py() or 0
        if longest > MAX_TEXT:
            raise BatchError(f"{name}: {longest} bytes are more than one record may have, which is {MAX_TEXT}")
    severity = _numbers(batch.severity_number, rows, "severity_number")
    if rows and severity.max() > MAX_SEVERITY:
        raise BatchError(f"severity_number: {severity.max()} is not from 0 to {MAX_SEVERITY}")
    return finished(
        {
            **texts,
            "ts_ns": _numbers(batch.ts_ns, rows, "ts_ns"),
            "observed_ns": _numbers(batch.observed_ns, rows, "observed_ns"),
            "severity_number": severity,
            "flags": _numbers(batch.flags, rows, "flags"),
            "attributes": attributes,
            "dropped_attributes": _numbers(batch.dropped_attributes, rows, "dropped_attributes"),
        },
        now_ns,
    )


def finished(columns: dict[str, Any], now_ns: int) -> tuple[pa.Table, int]:
    """Return the rows with their times mended and correlation ids filled in, and how many had an absurd time."""
    ts, observed = columns["ts_ns"], columns["observed_ns"]
    oldest, newest = now_ns - round(LOGS.max_age * 1e9), now_ns + AHEAD_NS
    observed = np.where((observed < oldest) | (observed > newest), now_ns, observed)
    ts = np.where(ts == 0, observed, ts)
    absurd = (ts < oldest) | (ts > newest)
    count = int(absurd.sum())
    attributes = columns["attributes"]
    if count:
        attributes = _with_times(attributes, ts, absurd)
        ts = np.where(absurd, observed, ts)
    ids, traces = columns["correlation_id"], columns["trace_id"]
    known = pc.not_equal(ids, "") if not pa.types.is_dictionary(ids.type) else pc.not_equal(ids.cast(pa.string()), "")
    if len(ids) and not pc.all(known).as_py():
        ids = pc.if_else(known, ids.cast(pa.string()), traces.cast(pa.string()))
    columns = columns | {"ts_ns": ts, "observed_ns": observed, "attributes": attributes, "correlation_id": ids}
    return pa.table([columns[name] for name in LOGS.columns], names=list(LOGS.columns)), count


def _with_times(attributes: pa.Array, ts: np.ndarray, absurd: np.ndarray) -> pa.Array:
    texts = attributes.cast(pa.string()).to_pylist()
    for row in np.flatnonzero(absurd):
        rest = texts[row].lstrip()[1:].lstrip()
        texts[row] = f'{{"{ORIGINAL_TIME}":{int(ts[row])}{"" if rest.startswith("}") else ","}{rest}'
    return pa.array(texts, pa.string())


def _numbers(values: Sequence[int], rows: int, name: str) -> np.ndarray:
    if not values:
        return np.zeros(rows, np.int64)
    if len(values) != rows:
        raise BatchError(f"{name}: {len(values)} values for {rows} records")
    return np.fromiter(values, np.int64, rows)


def _text(column: TextColumn, rows: int, name: str, default: str = "") -> pa.Array:
    values, indices = column.values, column.indices
    if indices:
        if len(indices) != rows:
            raise BatchError(f"{name}: {len(indices)} values for {rows} records")
        places = np.fromiter(indices, np.int64, rows)
        if places.max() >= len(values):
            raise BatchError(f"{name}: there is no value {places.max()} among {len(values)}")
        return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32)), _known(values, default))
    if len(values) == rows and rows:
        return _known(values, default)
    if len(values) > 1 or (values and not rows):
        raise BatchError(f"{name}: {len(values)} values for {rows} records")
    one = _known(values or (default,), default)
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), one)


def _known(values: Sequence[str], default: str) -> pa.Array:
    array = pa.array(list(values), pa.string())
    return pc.if_else(pc.equal(array, ""), default, array) if default else array


def _distinct(column: pa.Array) -> pa.Array:
    return column.dictionary if pa.types.is_dictionary(column.type) else column
