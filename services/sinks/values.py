"""OpenTelemetry's values and attributes as texts and as JSON, all of an export at once. Decides, and does no I/O.

Done by columns: a loop of Python over attributes would cost more than all the rest of an export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValueList

from mesh.api.otlp.v1 import KeyValue
from services.sinks.columns import MAX_TEXT
from services.sinks.messages import Columns, flat, hexadecimal
from services.sinks.otlp import MAX_LABEL, Cutter, encode, quote, value
from services.storage.columns.base import BatchError

# Of one export, and what they come to as JSON in bytes: what a resource says is in each of its records.
MAX_ATTRIBUTES = 4_000_000
MAX_BYTES = 512 << 20

# What JSON does not have as it is; DEL, which it does have, does no harm here.
_UNSAFE = r'["\\[:cntrl:]]'
_KEY_VALUES = Columns(KeyValue)
# Made once: a scalar costs more than what is done with it.
_EMPTY, _QUOTE, _COMMA, _END, _NULL = (pa.scalar(text, pa.string()) for text in ("", '"', ",", "}", "null"))


_FALSE = pa.scalar(value=False)


def texts(values: pa.StructArray) -> tuple[pa.Array, np.ndarray]:
    """Return values as texts, null for none; and which of them are texts in JSON as well.

    What is no text is as JSON has it; bytes are hexadecimal, and of doubles those that are no number are texts.
    """
    fields = dict(zip((field.name for field in values.type), values.flatten(), strict=True))
    found = fields["string_value"]
    plain = np.ones(len(found), bool)
    if not found.null_count:
        return found, plain
    for name, read in _OTHERS.items():
        field = fields[name]
        if field.null_count == len(found):
            continue
        # Who sets several fields of a oneof gets one of them.
        there = pc.and_(field.is_valid(), found.is_null())
        made, are_texts = read(field.filter(there))
        plain[there.to_numpy(zero_copy_only=False)] = are_texts
        found = pc.replace_with_mask(found, there, made)
    return found, plain


def as_json(found: pa.Array, plain: np.ndarray) -> pa.Array:
    """Return texts of `texts` as JSON."""
    unsafe = pc.match_substring_regex(found, _UNSAFE)
    if pc.any(unsafe).as_py():
        unsafe = pc.and_(pc.fill_null(unsafe, _FALSE), pa.array(plain))
        quoted = [quote(text)[1:-1] for text in found.filter(unsafe).to_pylist()]
        found = pc.replace_with_mask(found, unsafe, pa.array(quoted, pa.string()))
    quoted = pc.binary_join_element_wise(_QUOTE, found, _QUOTE, _EMPTY)
    if not plain.all():
        quoted = pc.if_else(pa.array(plain), quoted, found)
    return pc.fill_null(quoted, _NULL) if quoted.null_count else quoted


class Attributes:
    """The attributes of all records of an export. Most are said again and again: each that is said is read once."""

    def __init__(self, lists: pa.ListArray, roles: Mapping[str, int]) -> None:
        """Take the encoded attributes of each record, and the names that mean something, with a number for each.

        Raises:
            DecodeError: one is no attribute.
            BatchError: there are too many.

        """
        encoded, self._counts = flat(lists)
        if len(encoded) > MAX_ATTRIBUTES:
            raise BatchError(f"an export has at most {MAX_ATTRIBUTES} attributes, this one {len(encoded)}")
        known = encoded.dictionary_encode()
        # For each attribute its place among those that are said.
        self._which = known.indices
        fields = _KEY_VALUES.read(known.dictionary)
        keys = fields["key"].dictionary_encode()
        names, self._key = keys.dictionary.to_pylist(), keys.indices
        self._names = pa.array([f"{quote(name)}:" for name in names], pa.string())
        self._texts, self._plain = texts(fields["value"])
        numbers = np.array([roles.get(name, 0) for name in names], np.int8)
        # Of those that are said.
        self._roles = numbers[self._key.to_numpy()] if numbers.any() else None

    def objects(self, members: Sequence[str], places: np.ndarray, cutter: Cutter) -> pa.Array:
        """Return the attributes of each record as a JSON object that begins with its group's `members`.

        Raises `BatchError` when they come to too much.
        """
        said = pc.binary_join_element_wise(self._names.take(self._key), as_json(self._texts, self._plain), _EMPTY)
        self._bound(said, members, places)
        ends = np.zeros(len(self._counts) + 1, np.int32)
        np.cumsum(self._counts, out=ends[1:])
        joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(ends), said.take(self._which)), _COMMA)
        # By whether the record has attributes of its own.
        begins = pa.array(
            [f"{{{one}" for one in members] + [f"{{{one}," if one else "{" for one in members], pa.string()
        )
        begin = begins.take(pa.array(places + len(members) * (self._counts > 0)))
        return cut_json(pc.binary_join_element_wise(begin, joined, _END, _EMPTY), cutter)

    def firsts(self, roles: int, never_empty: int) -> np.ndarray:
        """Return for each record (a row) and each role from 0 to `roles` the first attribute that has it, -1 for none.

        They are places for `labels`. An empty text does not count for the role `never_empty`.
        """
        found = np.full((len(self._counts), roles + 1), -1)
        if self._roles is None:
            return found
        has = self._roles
        empty = pc.equal(pc.fill_null(self._texts, _EMPTY), _EMPTY).to_numpy(zero_copy_only=False)
        has = np.where((has == never_empty) & empty, 0, has)
        which = self._which.to_numpy()
        places = np.flatnonzero(has[which])
        items = which[places]
        cells = np.repeat(np.arange(len(self._counts)), self._counts)[places] * (roles + 1) + has[items]
        # Backwards: what is written last, the first one, stays.
        found.reshape(-1)[cells[::-1]] = items[::-1]
        return found

    def labels(self, places: np.ndarray) -> pa.Array:
        """Return the texts of attributes by their places, null for -1."""
        found = self._texts.take(pa.array(places, mask=places < 0))
        long = pc.max(pc.binary_length(found)).as_py() or 0
        return pc.utf8_slice_codeunits(found, 0, MAX_LABEL) if long > MAX_LABEL else found

    def _bound(self, said: pa.Array, members: Sequence[str], places: np.ndarray) -> None:
        lengths = np.array([len(one.encode()) for one in members], np.int64)
        size = int(lengths[places].sum() + pc.binary_length(said).to_numpy().astype(np.int64)[self._which].sum())
        if size > MAX_BYTES:
            raise BatchError(
                f"the attributes come to {size >> 20} MiB and {MAX_BYTES >> 20} are taken: what a resource says is in"
                " each of its records, so send fewer at once"
            )


def cut_json(found: pa.Array, cutter: Cutter) -> pa.Array:
    """Return JSON objects, those that are too long replaced."""
    return _mended(found, MAX_TEXT, cutter.json)


def cut(found: pa.Array, most: int, cutter: Cutter) -> pa.Array:
    """Return texts, those of more than `most` bytes cut."""
    return _mended(found, most, lambda text: cutter.text(text, most))


def _mended(found: pa.Array, most: int, mend: Callable[[str], str]) -> pa.Array:
    sizes = pc.binary_length(found)
    if (pc.max(sizes).as_py() or 0) <= most:
        return found
    long = pc.greater(sizes, most)
    return pc.replace_with_mask(
        found, long, pa.array([mend(text) for text in found.filter(long).to_pylist()], pa.string())
    )


def _doubles(found: pa.Array) -> tuple[pa.Array, Any]:
    numbers = found.to_pylist()
    finite = [abs(number) < float("inf") for number in numbers]
    made = [repr(number) if is_finite else str(number) for number, is_finite in zip(numbers, finite, strict=True)]
    return pa.array(made, pa.string()), np.logical_not(finite)


def _arrays(found: pa.Array) -> tuple[pa.Array, Any]:
    made = [encode(value(AnyValue(array_value=ArrayValue.FromString(one)))) for one in found.to_pylist()]
    return pa.array(made, pa.string()), False


def _trees(found: pa.Array) -> tuple[pa.Array, Any]:
    made = [encode(value(AnyValue(kvlist_value=KeyValueList.FromString(one)))) for one in found.to_pylist()]
    return pa.array(made, pa.string()), False


# By the field: its values as texts, and whether they are texts in JSON as well.
_OTHERS: Mapping[str, Callable[[pa.Array], tuple[pa.Array, Any]]] = {
    "int_value": lambda found: (found.cast(pa.string()), False),
    "bool_value": lambda found: (found.cast(pa.string()), False),
    "double_value": _doubles,
    "bytes_value": lambda found: (hexadecimal(found), True),
    "array_value": _arrays,
    "kvlist_value": _trees,
}
