"""What is pushed: log records or spans, each with its ways into the sink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from benchmarks.telemetry_cases import rows, span_rows
from mesh.api.logsink import v1 as logsink
from mesh.api.tracesink import v1 as tracesink
from services.logsink import records
from services.storage.columns.base import TableSchema
from services.tracesink import records as spans


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of records."""

    name: str
    schema: TableSchema
    # The columnar way in, and OpenTelemetry's.
    push: str
    request: Any
    response: Any
    export: str
    # Make so many records, numbered from a first one on.
    columnar: Callable[[int, int], Any]
    otlp: Callable[[int, int], bytes]
    from_batch: Callable[[Any, int], tuple[pa.Table, int]]


LOGS = Kind(
    "records",
    records.LOGS,
    "/mesh.logsink.v1.LogSink/Push",
    logsink.PushRequest,
    logsink.PushResponse,
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    rows.columnar,
    rows.otlp,
    records.from_batch,
)
SPANS = Kind(
    "spans",
    spans.SPANS,
    "/mesh.tracesink.v1.TraceSink/Push",
    tracesink.PushRequest,
    tracesink.PushResponse,
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    span_rows.columnar,
    span_rows.otlp,
    spans.from_batch,
)
