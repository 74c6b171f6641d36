"""Values of JSON as OpenTelemetry's. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

# The attribute that is a record's correlation id.
CORRELATION = "correlation_id"
_INT = 1 << 63
# What is nested deeper becomes text.
_MAX_DEPTH = 16


def any_value(value: Any, depth: int = 0) -> AnyValue:
    """Return one value; null is an empty one."""
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value) if -_INT <= value < _INT else AnyValue(double_value=float(value))
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if value is None:
        return AnyValue()
    if depth >= _MAX_DEPTH:
        return AnyValue(string_value=json.dumps(value))
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[any_value(one, depth + 1) for one in value]))
    return AnyValue(kvlist_value=KeyValueList(values=pairs(value, depth + 1)))


def pairs(values: Mapping[str, Any], depth: int = 0) -> list[KeyValue]:
    """Return attributes."""
    return [KeyValue(key=name, value=any_value(value, depth)) for name, value in values.items()]


def identity(service: str, instance: str, version: str = "") -> list[KeyValue]:
    """Return the attributes of a resource that say who it is."""
    said = {"service.name": service, "service.instance.id": instance, "service.version": version}
    return pairs({name: value for name, value in said.items() if value})


def id_bytes(text: str) -> bytes:
    """Return a trace's or span's id; nothing for one that is none: whoever pushed it did not keep to hexadecimals."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
