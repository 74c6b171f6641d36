"""The standard log record: OpenTelemetry's data model, with correlation id, service and instance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.api.logsink.v1 import LogBatch, TextColumn

# The first severity number of each class, as OpenTelemetry counts them.
TRACE, DEBUG, INFO, WARN, ERROR, FATAL = 1, 5, 9, 13, 17, 21
LEVELS: Mapping[str, int] = {
    "trace": TRACE,
    "debug": DEBUG,
    "info": INFO,
    "warn": WARN,
    "error": ERROR,
    "fatal": FATAL,
}

# What a body may have, in characters, before it is cut: a record must fit in what the sink takes.
MAX_BODY = 256 * 1024

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


@dataclass(slots=True)
class Record:
    """One log record. Times are nanoseconds since 1970, 0 is unknown; so are empty texts."""

    body: str
    ts_ns: int = 0
    # 1-24, see `LEVELS`; 0 is unknown.
    severity: int = 0
    severity_text: str = ""
    service: str = ""
    instance: str = ""
    version: str = ""
    scope: str = ""
    event_name: str = ""
    correlation_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    flags: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)


def level_name(severity: int) -> str:
    """Return the name of the class that a severity number is of: "INFO" for 9 to 12; "" for 0."""
    return "" if not severity else ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")[min((severity - 1) // 4, 5)]


def to_batch(records: Sequence[Record], observed_ns: int) -> LogBatch:
    """Return the records as the columns that the sink takes. Texts that repeat are written once."""
    return LogBatch(
        ts_ns=[record.ts_ns for record in records],
        observed_ns=[observed_ns] * len(records),
        severity_number=[record.severity for record in records],
        severity_text=column([record.severity_text for record in records]),
        body=TextColumn(values=[safe(record.body[:MAX_BODY]) for record in records]),
        event_name=column([record.event_name for record in records]),
        trace_id=column([record.trace_id for record in records]),
        span_id=column([record.span_id for record in records]),
        flags=[record.flags for record in records],
        correlation_id=column([record.correlation_id for record in records]),
        service=column([record.service for record in records]),
        instance=column([record.instance for record in records]),
        version=column([record.version for record in records]),
        scope=column([record.scope for record in records]),
        attributes=column([attributes_text(record.attributes) for record in records]),
    )


def column(texts: list[str]) -> TextColumn:
    """Return the texts as a column: each once, where that is shorter."""
    places: dict[str, int] = {}
    indices = [places.setdefault(text, len(places)) for text in texts]
    values = [safe(text) for text in places]
    if len(places) == 1:
        return TextColumn(values=values)
    if 2 * len(places) < len(texts):
        return TextColumn(values=values, indices=indices)
    return TextColumn(values=map(safe, texts))


def attributes_text(attributes: Mapping[str, Any]) -> str:
    """Return attributes as a JSON object; what JSON does not have becomes text."""
    if not attributes:
        return "{}"
    try:
        text = _encode(attributes)
        # json writes numbers that are none bare, which nobody else reads.
        if "NaN" in text or "Infinity" in text:
            text = json.dumps(_finite(attributes), ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps({str(name): str(value) for name, value in attributes.items()}, ensure_ascii=False)
    text = safe(text)
    return text if len(text) <= MAX_BODY else json.dumps({"mesh.cut_characters": len(text)})


def safe(text: str) -> str:
    """Return the text without the halves of characters that no encoding has."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not abs(value) < float("inf") else value
