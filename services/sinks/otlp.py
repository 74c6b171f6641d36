"""OpenTelemetry's attributes as JSON, fast: most come again and again. Decides, and does no I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue as KeyValueMessage

from services.sinks.columns import MAX_TEXT

# Of nested values: deeper ones become null.
MAX_DEPTH = 16
# Of a service's or an instance's name, and the like, in characters.
MAX_LABEL = 255

# Attributes that are kept, and how long each may be: a few megabytes.
_MAX_MEMBERS = 20_000
_MAX_KEPT = 200
# Fields 1 and 2, of a length.
TEXT_TAG, VALUE_TAG = 0x0A, 0x12
quote = json.encoder.encode_basestring
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False).encode
_CUT = "… (cut)"


class Members:
    """Attributes by their bytes: as a member of a JSON object, its role (0 for most), and the value of those with one.

    `known` is read where each nanosecond counts: `known.get(data) or add(data)`.
    """

    def __init__(self, roles: Mapping[str, int], passing: Iterable[int] = ()) -> None:
        """Take the names that mean something to us, with a number for each; those `passing` are not kept."""
        self.known: dict[bytes, tuple[str, int, str]] = {}
        self._roles = roles
        self._passing = frozenset(passing)

    def add(self, data: bytes) -> tuple[str, int, str]:
        """Return what `known` has for an attribute, and keep it: most come again, in other records.

        Raises:
            DecodeError: it is no attribute.

        """
        name, value = read(data)
        text = quote(value) if isinstance(value, str) else encode(value)
        role = self._roles.get(name, 0)
        found = (f"{quote(name)}:{text}", role, label(value) if role else "")
        if len(data) <= _MAX_KEPT and role not in self._passing:
            if len(self.known) >= _MAX_MEMBERS:
                self.known.clear()
            self.known[data] = found
        return found


class Cutter:
    """Cuts texts that are too long, and counts them."""

    def __init__(self) -> None:
        self.cut = 0

    def text(self, text: str, most: int = MAX_TEXT) -> str:
        """Return the text, cut if it has more than `most` bytes."""
        if len(text) <= most // 4 or len(text.encode()) <= most:
            return text
        self.cut += 1
        return text.encode()[: most - 16].decode(errors="ignore") + _CUT

    def json(self, text: str, *, array: bool = False) -> str:
        """Return a JSON text, or another one that says how long it was."""
        if len(text) <= MAX_TEXT // 4 or (size := len(text.encode())) <= MAX_TEXT:
            return text
        self.cut += 1
        said = f'{{"mesh.cut_bytes":{size}}}'
        return f"[{said}]" if array else said


def read(data: bytes) -> tuple[str, Any]:
    """Return the name and value of an attribute. Nearly all are a short text, whose bytes are plain to see."""
    end = len(data)
    if end > 4 and data[0] == TEXT_TAG:
        value_at = data[1] + 2
        if (
            value_at < 130
            and value_at + 4 <= end < value_at + 130
            and data[value_at] == VALUE_TAG
            and data[value_at + 1] == end - value_at - 2
            and data[value_at + 2] == TEXT_TAG
            and data[value_at + 3] == end - value_at - 4
        ):
            return utf8(data[2:value_at]), utf8(data[value_at + 4 :])
    message = KeyValueMessage.FromString(data)
    return message.key, value(message.value)


def utf8(data: bytes) -> str:
    """Return bytes as text; raises `DecodeError`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DecodeError("a text is not UTF-8") from error


def value(any_value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it: bytes become hexadecimal, infinities and NaN text, what is too deep null."""
    kind = any_value.WhichOneof("value")
    if kind is None or depth >= MAX_DEPTH:
        return None
    if kind == "kvlist_value":
        return {one.key: value(one.value, depth + 1) for one in any_value.kvlist_value.values}
    if kind == "array_value":
        return [value(one, depth + 1) for one in any_value.array_value.values]
    if kind == "bytes_value":
        return any_value.bytes_value.hex()
    found = getattr(any_value, kind)
    if kind == "double_value" and not abs(found) < float("inf"):
        return str(found)
    return found


def as_text(found: Any) -> str:
    """Return a value as text: itself, or as JSON."""
    return "" if found is None else found if isinstance(found, str) else encode(found)


def label(found: Any) -> str:
    """Return a value as a short text."""
    return as_text(found)[:MAX_LABEL]


def times(values: list[int]) -> np.ndarray:
    """Return unsigned times as signed ones."""
    # What does not fit is absurd in any case.
    return np.minimum(np.array(values, np.uint64), np.uint64(2**63 - 1)).astype(np.int64)
