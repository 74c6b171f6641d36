"""Spans of the store as an export of OTLP. Pure."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.forwarding.values import CORRELATION, id_bytes, identity, pairs

# What is a column in the store is an attribute elsewhere.
_ATTRIBUTES = (("rpc_method", "rpc.method"), ("rpc_status_code", "rpc.status_code"), ("peer_service", "peer.service"))


def export(table: pa.Table) -> bytes:
    """Return the rows of the table of spans: a resource an instance, the correlation id an attribute."""
    request = ExportTraceServiceRequest()
    scopes: dict[tuple[str, ...], Any] = {}
    for row in table.to_pylist():
        origin = (row["service"], row["instance"], row["version"], row["scope"])
        scope = scopes.get(origin)
        if scope is None:
            resource = request.resource_spans.add()
            resource.resource.attributes.extend(identity(*origin[:3]))
            scope = scopes[origin] = resource.scope_spans.add()
            scope.scope.name = origin[3]
        span: Span = scope.spans.add(
            start_time_unix_nano=row["start_ns"],
            end_time_unix_nano=row["end_ns"],
            trace_id=id_bytes(row["trace_id"]),
            span_id=id_bytes(row["span_id"]),
            parent_span_id=id_bytes(row["parent_span_id"]),
            name=row["name"],
            kind=row["kind"],
            trace_state=row["trace_state"],
            flags=row["flags"],
            dropped_attributes_count=row["dropped"],
        )
        span.status.code = row["status"]
        span.status.message = row["status_message"]
        span.attributes.extend(pairs(_attributes(row)))
        for event in _list(row["events"]):
            span.events.add(
                time_unix_nano=event.get("ts_ns", 0),
                name=event.get("name", ""),
                attributes=pairs(event.get("attributes") or {}),
            )
        for link in _list(row["links"]):
            span.links.add(
                trace_id=id_bytes(link.get("trace_id", "")),
                span_id=id_bytes(link.get("span_id", "")),
                trace_state=link.get("trace_state", ""),
                attributes=pairs(link.get("attributes") or {}),
            )
    return request.SerializeToString()


def _attributes(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(row["attributes"] or "{}")
    for column, name in _ATTRIBUTES:
        if row[column]:
            found.setdefault(name, row[column])
    if row["correlation_id"] not in ("", row["trace_id"]):
        found[CORRELATION] = row["correlation_id"]
    return found


def _list(text: str) -> list[dict[str, Any]]:
    return json.loads(text) if text not in ("", "[]") else []
