"""OpenTelemetry's log messages as rows. Decides, and does no I/O.

What a resource says of itself other than service, instance and version goes into each record's attributes, with
"resource." before its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from mesh.api.otlp.v1 import LogsRequest
from services.logsink.records import MAX_SEVERITY, MAX_TEXT, finished
from services.sinks.otlp import TEXT_TAG, Cutter, Members, as_text, encode, label, read, times, utf8, value

_CORRELATION = 1
_members = Members(
    dict.fromkeys(("correlation_id", "correlation.id", "x-correlation-id"), _CORRELATION), passing=(_CORRELATION,)
)


class Rows:
    """Rows as columns while they are gathered."""

    def __init__(self) -> None:
        self.ts: list[int] = []
        self.observed: list[int] = []
        self.severity: list[int] = []
        self.severity_text: list[str] = []
        self.body: list[str] = []
        self.event: list[str] = []
        self.trace: list[str] = []
        self.span: list[str] = []
        self.flags: list[int] = []
        self.correlation: list[str] = []
        self.attributes: list[str] = []
        self.dropped: list[int] = []
        # The same for all records of a scope: (service, instance, version, scope), and how many.
        self.origins: list[tuple[tuple[str, str, str, str], int]] = []
        # Of bodies and attributes.
        self.cutter = Cutter()

    def table(self, now_ns: int) -> tuple[pa.Table, int]:
        """Return them as a table, and how many had an absurd time."""
        counts = np.array([count for _, count in self.origins], np.int64)
        places = pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
        origins = [list(column) for column in zip(*(origin for origin, _ in self.origins), strict=True)] or [[]] * 4
        service, instance, version, scope = (
            pa.DictionaryArray.from_arrays(places, pa.array(column, pa.string())) for column in origins
        )
        text = pa.string()
        return finished(
            {
                "ts_ns": times(self.ts),
                "observed_ns": times(self.observed),
                "severity_number": np.clip(np.array(self.severity, np.int64), 0, MAX_SEVERITY),
                "severity_text": pa.array(self.severity_text, text).dictionary_encode(),
                "body": pa.array(self.body, text),
                "event_name": pa.array(self.event, text).dictionary_encode(),
                "trace_id": pa.array(self.trace, text),
                "span_id": pa.array(self.span, text),
                "flags": np.array(self.flags, np.int64),
                "correlation_id": pa.array(self.correlation, text),
                "service": service,
                "instance": instance,
                "version": version,
                "scope": scope,
                "attributes": pa.array(self.attributes, text),
                "dropped_attributes": np.array(self.dropped, np.int64),
            },
            now_ns,
        )


def from_export(request: LogsRequest) -> Rows:
    """Return the records of an export as rows; values that JSON does not have become text or null.

    Raises:
        DecodeError: an attribute or a body is no message of OpenTelemetry.

    """
    rows = Rows()
    for group in request.resource_logs:
        resource = dict(map(read, group.resource.attributes))
        named = [label(resource.pop(name, "")) for name in ("service.name", "service.instance.id", "service.version")]
        common = encode({f"resource.{name}": said for name, said in resource.items()})[1:-1]
        for scoped in group.scope_logs:
            before = len(rows.ts)
            # A list: each pass over the field itself would make its objects anew.
            _add(rows, list(scoped.log_records), common)
            rows.origins.append(((named[0], named[1], named[2], scoped.scope.name), len(rows.ts) - before))
    return rows


def _add(rows: Rows, records: Sequence[Any], common: str) -> None:
    rows.ts += [record.time_unix_nano for record in records]
    rows.observed += [record.observed_time_unix_nano for record in records]
    rows.severity += [record.severity_number for record in records]
    rows.severity_text += [record.severity_text for record in records]
    rows.event += [record.event_name for record in records]
    rows.trace += [record.trace_id.hex() for record in records]
    rows.span += [record.span_id.hex() for record in records]
    rows.flags += [record.flags for record in records]
    rows.dropped += [record.dropped_attributes_count for record in records]
    bodies = [_body(record.body) for record in records]
    if bodies and max(map(len, bodies)) > MAX_TEXT // 4:
        bodies = [rows.cutter.text(body) for body in bodies]
    rows.body += bodies
    before = f"{common}," if common else ""
    known, add = _members.known, _members.add
    for record in records:
        members, correlation = [], ""
        for data in record.attributes:
            member, role, said = known.get(data) or add(data)
            members.append(member)
            if role:
                correlation = correlation or said
        text = f"{{{before}{','.join(members)}}}" if members else f"{{{common}}}"
        rows.attributes.append(text if len(text) <= MAX_TEXT // 4 else rows.cutter.json(text))
        rows.correlation.append(correlation)


def _body(data: bytes) -> str:
    """Return a body as text. Nearly all are a short text, whose bytes are plain to see."""
    size = len(data) - 2
    # The tag of a text, and its length in one byte, or in two.
    if 0 <= size < 128 and data[0] == TEXT_TAG and data[1] == size:
        return utf8(data[2:])
    if 129 <= size < 16_385 and data[0] == TEXT_TAG and data[1] & 127 | data[2] << 7 == size - 1 and data[1] & 128:
        return utf8(data[3:])
    return as_text(value(AnyValue.FromString(data)))
