"""The standard log record as a table, and batches that come in brought into its form. Decides, and does no I/O."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from services.sinks.columns import (
    AHEAD_NS,
    MAX_TEXT,
    ORIGINAL_TIME,
    check_length,
    count_of,
    filled,
    json_text,
    noted,
    numbers,
    text,
)
from services.sinks.messages import Fields
from services.storage.columns.base import TableSchema, Type

__all__ = ["LOGS", "MAX_SEVERITY", "MAX_TEXT", "finished", "from_batch"]

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

MAX_SEVERITY = 24

_TEXTS = ("severity_text", "event_name", "trace_id", "span_id", "service", "instance", "version", "scope")


def from_batch(batch: Fields, now_ns: int) -> tuple[pa.Table, int]:
    """Return the rows of a LogBatch that arrives at `now_ns`, and how many of them had an absurd time.

    Raises:
        BatchError: its columns are of different lengths, or hold what they may not.

    """
    rows = count_of(batch, "ts_ns", "records")
    texts = {name: text(batch, rows, name) for name in (*_TEXTS, "body", "correlation_id")}
    attributes = json_text(batch, rows, "attributes")
    check_length("body", texts["body"])
    check_length("attributes", attributes)
    return finished(
        {
            **texts,
            "ts_ns": numbers(batch, rows, "ts_ns"),
            "observed_ns": numbers(batch, rows, "observed_ns"),
            "severity_number": numbers(batch, rows, "severity_number", most=MAX_SEVERITY),
            "flags": numbers(batch, rows, "flags"),
            "attributes": attributes,
            "dropped_attributes": numbers(batch, rows, "dropped_attributes"),
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
        notes = {int(row): f'"{ORIGINAL_TIME}":{int(ts[row])}' for row in np.flatnonzero(absurd)}
        attributes = noted(attributes, notes)
        ts = np.where(absurd, observed, ts)
    ids = filled(columns["correlation_id"], columns["trace_id"])
    columns = columns | {"ts_ns": ts, "observed_ns": observed, "attributes": attributes, "correlation_id": ids}
    return pa.table([columns[name] for name in LOGS.columns], names=list(LOGS.columns)), count
