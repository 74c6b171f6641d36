"""What OpenTelemetry's exports have in common: resources, scopes, values. Decides, and does no I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from mesh.api.otlp.v1 import Export, ResourceGroup, ScopeGroup
from services.sinks.columns import MAX_TEXT
from services.sinks.messages import Columns, flat
from services.storage.columns.base import BatchError

# Of one export. What has more would need gigabytes to be read: the smallest record has two bytes.
MAX_ITEMS = 1_000_000
# Of nested values: deeper ones become null.
MAX_DEPTH = 16
# Of a service's or an instance's name, and the like, in characters.
MAX_LABEL = 255

# What longer resources say is read each time.
_MAX_KEPT = 8 << 10
_CUT = "… (cut)"
_NAMES = ("service.name", "service.instance.id", "service.version")

quote = json.encoder.encode_basestring
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False).encode

_EXPORT, _RESOURCES, _SCOPES = Columns(Export), Columns(ResourceGroup), Columns(ScopeGroup)


class Origin(NamedTuple):
    """What a resource says."""

    service: str
    instance: str
    version: str
    # The rest of it, as members of a JSON object, with "resource." before the names.
    members: str
    # The texts of its attributes by name.
    said: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Records:
    """The records of an export, still encoded, and where they come from."""

    data: pa.Array
    # For each record its place in `origins` and `scopes`.
    places: np.ndarray
    origins: Sequence[Origin]
    scopes: Sequence[str]

    def kept(self, which: np.ndarray) -> Records:
        """Return those where `which` is true."""
        return Records(self.data.filter(pa.array(which)), self.places[which], self.origins, self.scopes)

    def labels(self) -> dict[str, pa.Array]:
        """Return the columns that all records of a scope have in common."""
        places = pa.array(self.places.astype(np.int32))
        columns = {
            "service": [origin.service for origin in self.origins],
            "instance": [origin.instance for origin in self.origins],
            "version": [origin.version for origin in self.origins],
            "scope": self.scopes,
        }
        return {
            name: pa.DictionaryArray.from_arrays(places, pa.array(column, pa.string()))
            for name, column in columns.items()
        }


def records(data: bytes) -> Records:
    """Return the records of an export of logs or traces.

    Raises:
        DecodeError: it is none.
        BatchError: it has too many.

    """
    groups, _ = flat(_EXPORT.read(pa.array([data], pa.binary()))["groups"])
    by_resource = _RESOURCES.read(checked(groups, "resources"))
    scoped, scope_counts = flat(by_resource["groups"])
    by_scope = _SCOPES.read(checked(scoped, "scopes"))
    found, counts = flat(by_scope["records"])
    origins = [origin_of(resource) for resource in by_resource["resource"].to_pylist()]
    return Records(
        checked(found, "records"),
        np.repeat(np.arange(len(counts)), counts),
        [origins[place] for place in np.repeat(np.arange(len(scope_counts)), scope_counts)],
        [scope_name(scope) for scope in by_scope["scope"].to_pylist()],
    )


def checked(items: pa.Array, what: str) -> pa.Array:
    """Return the items; `BatchError` if there are too many."""
    if len(items) > MAX_ITEMS:
        raise BatchError(f"an export has at most {MAX_ITEMS} {what}, this one {len(items)}: send fewer at once")
    return items


def origin_of(resource: bytes) -> Origin:
    """Return what a resource says: nearly all were seen before. Raises `DecodeError`."""
    return _known(resource) if len(resource) <= _MAX_KEPT else _origin(resource)


def scope_name(scope: bytes) -> str:
    """Return the name of a scope; raises `DecodeError`."""
    return _known_scope(scope) if len(scope) <= _MAX_KEPT else _scope(scope)


def _origin(resource: bytes) -> Origin:
    said = {one.key: value(one.value) for one in Resource.FromString(resource).attributes}
    named = [label(said.pop(name, "")) for name in _NAMES]
    members = encode({f"resource.{name}": found for name, found in said.items()})[1:-1]
    return Origin(named[0], named[1], named[2], members, tuple((name, label(found)) for name, found in said.items()))


def _scope(scope: bytes) -> str:
    return label(InstrumentationScope.FromString(scope).name)


_known, _known_scope = lru_cache(1024)(_origin), lru_cache(1024)(_scope)


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


def label(found: Any) -> str:
    """Return a value as a short text."""
    text = "" if found is None else found if isinstance(found, str) else encode(found)
    return text[:MAX_LABEL]


def times(column: pa.Array) -> np.ndarray:
    """Return unsigned times as signed ones."""
    # What does not fit is absurd in any case.
    signed: np.ndarray = np.minimum(column.to_numpy(), np.uint64(2**63 - 1)).astype(np.int64)
    return signed
