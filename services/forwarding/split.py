"""An export of OTLP as several that a receiver's limit lets through. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from services.forwarding.options import Signal


@dataclass(frozen=True, slots=True)
class Shape:
    """How the messages of a signal are made."""

    method: str
    request: type[Any]
    response: type[Any]
    # The fields that lead to its records, and the one of a partial success that counts them.
    fields: tuple[str, ...]
    rejected: str


SHAPES = {
    Signal.LOGS: Shape(
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
        ("resource_logs", "scope_logs", "log_records"),
        "rejected_log_records",
    ),
    Signal.TRACES: Shape(
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
        ("resource_spans", "scope_spans", "spans"),
        "rejected_spans",
    ),
    Signal.METRICS: Shape(
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse,
        ("resource_metrics", "scope_metrics", "metrics"),
        "rejected_data_points",
    ),
}


def split(signal: Signal, data: bytes, most: int) -> list[bytes]:
    """Return exports of at most `most` bytes each, in order, always the same ones; one record may be larger.

    Raises:
        ValueError: it is no export.

    """
    if len(data) <= most:
        return [data]
    shape = SHAPES[signal]
    try:
        request = shape.request.FromString(data)
    except DecodeError as error:
        raise ValueError(f"it is no export: {error}") from error
    return [part.SerializeToString() for part in _halved(request, shape.fields, most)]


def _halved(request: Any, fields: tuple[str, ...], most: int) -> Iterator[Message]:
    if request.ByteSize() <= most:
        yield request
        return
    # Down to the first level that has more than one entry.
    level, path = request, []
    for field in fields:
        entries = getattr(level, field)
        if len(entries) > 1:
            break
        path.append(field)
        if field == fields[-1] or not entries:
            yield request  # one record
            return
        level = entries[0]
    entries = getattr(level, field)
    middle = len(entries) // 2
    for half in (slice(None, middle), slice(middle, None)):
        part = _without(request, path)
        target = part
        for name in path:
            target = getattr(target, name)[0]
        getattr(target, field).extend(entries[half])
        yield from _halved(part, fields, most)


def _without(request: Any, path: list[str]) -> Any:
    """Return a copy of what is around the entries that are divided: resource and scope."""
    made = type(request)()
    into, level = made, request
    for name in path:
        level = getattr(level, name)[0]
        into = getattr(into, name).add()
        for what, value in level.ListFields():
            if not what.is_repeated:
                setter = getattr(into, what.name)
                if isinstance(value, Message):
                    setter.CopyFrom(value)
                else:
                    setattr(into, what.name, value)
    return made
