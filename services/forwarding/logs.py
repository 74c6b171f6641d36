"""Log records of the store as an export of OTLP. Pure."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from services.forwarding.values import CORRELATION, id_bytes, identity, pairs


def export(table: pa.Table) -> bytes:
    """Return the rows of the table of logs: a resource an instance, the correlation id an attribute."""
    request = ExportLogsServiceRequest()
    scopes: dict[tuple[str, ...], Any] = {}
    # By text: most records have attributes that others have too.
    known: dict[tuple[str, str], Any] = {}
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    origins = zip(*(columns[name] for name in ("service", "instance", "version", "scope")), strict=True)
    for row, origin in enumerate(origins):
        scope = scopes.get(origin)
        if scope is None:
            resource = request.resource_logs.add()
            resource.resource.attributes.extend(identity(*origin[:3]))
            scope = scopes[origin] = resource.scope_logs.add()
            scope.scope.name = origin[3]
        record: LogRecord = scope.log_records.add(
            time_unix_nano=columns["ts_ns"][row],
            observed_time_unix_nano=columns["observed_ns"][row],
            severity_number=columns["severity_number"][row],
            severity_text=columns["severity_text"][row],
            event_name=columns["event_name"][row],
            flags=columns["flags"][row],
            dropped_attributes_count=columns["dropped_attributes"][row],
            trace_id=id_bytes(columns["trace_id"][row]),
            span_id=id_bytes(columns["span_id"][row]),
        )
        record.body.string_value = columns["body"][row]
        correlation = columns["correlation_id"][row]
        if correlation == columns["trace_id"][row]:
            correlation = ""  # it stands for one
        key = (columns["attributes"][row], correlation)
        attributes = known.get(key)
        if attributes is None:
            if len(known) > 10_000:
                known.clear()
            attributes = known[key] = _attributes(*key)
        record.attributes.extend(attributes)
    return request.SerializeToString()


def _attributes(text: str, correlation: str) -> list[Any]:
    found = json.loads(text) if text not in ("", "{}") else {}
    if correlation and found.get(CORRELATION) != correlation:
        found[CORRELATION] = correlation
    return pairs(found)
