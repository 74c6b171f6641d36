"""OpenTelemetry's log messages as rows. Decides, and does no I/O.

What a resource says of itself other than service, instance and version goes into each record's attributes, with
"resource." before its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from services.logsink.records import MAX_SEVERITY, MAX_TEXT, finished

# Of nested values: deeper ones become null.
MAX_DEPTH = 16

_CORRELATION = ("correlation_id", "correlation.id", "x-correlation-id")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False).encode
_CUT = "… (cut)"


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
        # Bodies or attributes that were cut.
        self.cut = 0

    def table(self, now_ns: int) -> tuple[pa.Table, int]:
        """Return them as a table, and how many had an absurd time."""
        counts = [count for _, count in self.origins]
        places = pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
        origins = [list(column) for column in zip(*(origin for origin, _ in self.origins), strict=True)] or [[]] * 4
        service, instance, version, scope = (
            pa.DictionaryArray.from_arrays(places, pa.array(column, pa.string())) for column in origins
        )
        text = pa.string()
        return finished(
            {
                "ts_ns": _times(self.ts),
                "observed_ns": _times(self.observed),
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


def from_export(request: ExportLogsServiceRequest) -> Rows:
    """Return the records of an export as rows; values that JSON does not have become text or null."""
    rows = Rows()
    for group in request.resource_logs:
        resource = _tree(group.resource.attributes)
        named = [_label(resource.pop(name, "")) for name in ("service.name", "service.instance.id", "service.version")]
        common = _encode({f"resource.{name}": value for name, value in resource.items()})[1:-1]
        for scoped in group.scope_logs:
            before = len(rows.ts)
            _add(rows, scoped.log_records, common)
            rows.origins.append(((named[0], named[1], named[2], scoped.scope.name), len(rows.ts) - before))
    return rows


def _add(rows: Rows, records: Iterable[Any], common: str) -> None:
    # The inner loop of a million records: each column's append is looked up once.
    ts, observed, severity, body = rows.ts.append, rows.observed.append, rows.severity.append, rows.body.append
    severity_text, event, trace, span = (
        rows.severity_text.append,
        rows.event.append,
        rows.trace.append,
        rows.span.append,
    )
    flags, correlation, attributes, dropped = (
        rows.flags.append,
        rows.correlation.append,
        rows.attributes.append,
        rows.dropped.append,
    )
    for record in records:
        ts(record.time_unix_nano)
        observed(record.observed_time_unix_nano)
        severity(record.severity_number)
        severity_text(record.severity_text)
        said = record.body
        text = said.string_value if said.WhichOneof("value") == "string_value" else _as_text(_value(said, 0))
        if len(text) > MAX_TEXT // 4 and len(text.encode()) > MAX_TEXT:
            text = text.encode()[: MAX_TEXT - 16].decode(errors="ignore") + _CUT
            rows.cut += 1
        body(text)
        event(record.event_name)
        trace(record.trace_id.hex())
        span(record.span_id.hex())
        flags(record.flags)
        dropped(record.dropped_attributes_count)
        tree = _tree(record.attributes)
        id_ = ""
        for name in _CORRELATION:
            if name in tree:
                id_ = _label(tree[name])
                break
        correlation(id_)
        encoded = _encode(tree)
        if common:
            encoded = f"{{{common}{',' if tree else ''}{encoded[1:]}"
        if len(encoded) > MAX_TEXT // 4 and len(encoded.encode()) > MAX_TEXT:
            encoded = f'{{"mesh.cut_bytes":{len(encoded.encode())}}}'
            rows.cut += 1
        attributes(encoded)


def _tree(attributes: Iterable[Any]) -> dict[str, Any]:
    return {
        one.key: value.string_value if value.WhichOneof("value") == "string_value" else _value(value, 0)
        for one in attributes
        for value in (one.value,)
    }


def _value(value: Any, depth: int) -> Any:
    kind = value.WhichOneof("value")
    if kind is None or depth >= MAX_DEPTH:
        return None
    if kind == "kvlist_value":
        return {one.key: _value(one.value, depth + 1) for one in value.kvlist_value.values}
    if kind == "array_value":
        return [_value(one, depth + 1) for one in value.array_value.values]
    if kind == "bytes_value":
        return value.bytes_value.hex()
    found = getattr(value, kind)
    if kind == "double_value" and not abs(found) < float("inf"):
        return str(found)
    return found


def _as_text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else _encode(value)


def _label(value: Any) -> str:
    return _as_text(value)[:255]


def _times(values: list[int]) -> np.ndarray:
    # What does not fit is absurd in any case.
    return np.minimum(np.array(values, np.uint64), np.uint64(2**63 - 1)).astype(np.int64)
