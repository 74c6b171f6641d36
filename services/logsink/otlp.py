"""OpenTelemetry's log messages as rows. Decides, and does no I/O.

What a resource says of itself other than service, instance and version goes into each record's attributes, with
"resource." before its name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.common.v1.common_pb2 import KeyValue as KeyValueMessage

from mesh.api.otlp.v1 import LogsRequest
from services.logsink.records import MAX_SEVERITY, MAX_TEXT, finished

# Of nested values: deeper ones become null.
MAX_DEPTH = 16

_CORRELATION = frozenset(("correlation_id", "correlation.id", "x-correlation-id"))
# Attributes that are kept, and how long each may be: a few megabytes.
_MAX_MEMBERS = 20_000
_MAX_KEPT = 200
# Fields 1 and 2, of a length.
_TEXT_TAG, _VALUE_TAG = 0x0A, 0x12
_quote = json.encoder.encode_basestring
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

    def fitting(self, text: str) -> str:
        """Return the text, cut if it is too long."""
        if len(text) <= MAX_TEXT // 4 or len(text.encode()) <= MAX_TEXT:
            return text
        self.cut += 1
        return text.encode()[: MAX_TEXT - 16].decode(errors="ignore") + _CUT

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


def from_export(request: LogsRequest) -> Rows:
    """Return the records of an export as rows; values that JSON does not have become text or null.

    Raises:
        DecodeError: an attribute or a body is no message of OpenTelemetry.

    """
    rows = Rows()
    for group in request.resource_logs:
        resource = dict(map(_read, group.resource.attributes))
        named = [_label(resource.pop(name, "")) for name in ("service.name", "service.instance.id", "service.version")]
        common = _encode({f"resource.{name}": value for name, value in resource.items()})[1:-1]
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
        bodies = [rows.fitting(body) for body in bodies]
    rows.body += bodies
    before = f"{common}," if common else ""
    known = _members
    for record in records:
        members, correlation = [], ""
        for data in record.attributes:
            member, said = known.get(data) or _member(data)
            members.append(member)
            correlation = correlation or said
        text = f"{{{before}{','.join(members)}}}" if members else f"{{{common}}}"
        if len(text) > MAX_TEXT // 4 and (size := len(text.encode())) > MAX_TEXT:
            text = f'{{"mesh.cut_bytes":{size}}}'
            rows.cut += 1
        rows.attributes.append(text)
        rows.correlation.append(correlation)


# By the bytes of an attribute: it as a member of a JSON object, and the correlation id if it is one.
_members: dict[bytes, tuple[str, str]] = {}


def _member(data: bytes) -> tuple[str, str]:
    """Return what `_members` has for an attribute, and keep it: most come again, in other records."""
    name, value = _read(data)
    text = _quote(value) if isinstance(value, str) else _encode(value)
    found = (f"{_quote(name)}:{text}", _label(value) if name in _CORRELATION else "")
    if len(data) <= _MAX_KEPT and not found[1]:
        if len(_members) >= _MAX_MEMBERS:
            _members.clear()
        _members[data] = found
    return found


def _read(data: bytes) -> tuple[str, Any]:
    """Return the name and value of an attribute. Nearly all are a short text, whose bytes are plain to see."""
    end = len(data)
    if end > 4 and data[0] == _TEXT_TAG:
        value = data[1] + 2
        if (
            value < 130
            and value + 4 <= end < value + 130
            and data[value] == _VALUE_TAG
            and data[value + 1] == end - value - 2
            and data[value + 2] == _TEXT_TAG
            and data[value + 3] == end - value - 4
        ):
            return _utf8(data[2:value]), _utf8(data[value + 4 :])
    message = KeyValueMessage.FromString(data)
    return message.key, _value(message.value, 0)


def _body(data: bytes) -> str:
    """Return a body as text. Nearly all are a short text, whose bytes are plain to see."""
    size = len(data) - 2
    # The tag of a text, and its length in one byte, or in two.
    if 0 <= size < 128 and data[0] == _TEXT_TAG and data[1] == size:
        return _utf8(data[2:])
    if 129 <= size < 16_385 and data[0] == _TEXT_TAG and data[1] & 127 | data[2] << 7 == size - 1 and data[1] & 128:
        return _utf8(data[3:])
    return _as_text(_value(AnyValue.FromString(data), 0))


def _utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DecodeError("a text is not UTF-8") from error


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
