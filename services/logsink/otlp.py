"""OpenTelemetry's log messages as rows. Decides, and does no I/O.

What a resource says of itself other than service, instance and version goes into each record's attributes, with
"resource." before its name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mesh.api.otlp.v1 import LogItem
from services.logsink.records import MAX_SEVERITY, MAX_TEXT, finished
from services.sinks.messages import Columns, hexadecimal
from services.sinks.otlp import Cutter, records, times
from services.sinks.values import Attributes, cut, texts

_CORRELATION = 1
_ROLES = dict.fromkeys(("correlation_id", "correlation.id", "x-correlation-id"), _CORRELATION)
_ITEMS = Columns(LogItem)


@dataclass(frozen=True, slots=True)
class Read:
    """The rows of an export."""

    table: pa.Table
    # How many had an absurd time.
    absurd: int
    # How many bodies and attributes were too long.
    cut: int


def from_export(data: bytes, now_ns: int) -> Read:
    """Return the records of an export that arrives at `now_ns`; values that JSON does not have become text or null.

    Raises:
        DecodeError: it is none, or an attribute or a body is no message of OpenTelemetry.
        BatchError: there is too much of something.

    """
    found = records(data)
    items = _ITEMS.read(found.data)
    cutter = Cutter()
    attributes = Attributes(items["attributes"], _ROLES)
    body, _ = texts(items["body"])
    members = [origin.members for origin in found.origins]
    table, absurd = finished(
        {
            **found.labels(),
            "ts_ns": times(items["time_unix_nano"]),
            "observed_ns": times(items["observed_time_unix_nano"]),
            "severity_number": np.clip(items["severity_number"].to_numpy().astype(np.int64), 0, MAX_SEVERITY),
            "severity_text": items["severity_text"].dictionary_encode(),
            "body": cut(pc.fill_null(body, "") if body.null_count else body, MAX_TEXT, cutter),
            "event_name": items["event_name"].dictionary_encode(),
            "trace_id": hexadecimal(items["trace_id"]),
            "span_id": hexadecimal(items["span_id"]),
            "flags": items["flags"].to_numpy().astype(np.int64),
            "correlation_id": pc.fill_null(
                attributes.labels(attributes.firsts(_CORRELATION, _CORRELATION)[:, _CORRELATION]), ""
            ),
            "attributes": attributes.objects(members, found.places, cutter),
            "dropped_attributes": items["dropped_attributes_count"].to_numpy().astype(np.int64),
        },
        now_ns,
    )
    return Read(table, absurd, cutter.cut)
