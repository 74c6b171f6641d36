"""Columns of a batch that comes in, checked and brought into the form of a table. Decides, and does no I/O."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.sinks.messages import Fields
from services.storage.columns.base import DAY_NS, BatchError

# A clock may be ahead so much. What is further, or older than records are kept, gets the time of its arrival.
AHEAD_NS = DAY_NS
# The attribute in which such a record's own time is kept.
ORIGINAL_TIME = "mesh.time_ns"

MAX_RECORDS = 200_000
# Of a body or of the attributes of one record, in bytes of UTF-8.
MAX_TEXT = 1 << 20


def count_of(batch: Fields, name: str, what: str) -> int:
    """Return the number of rows, by a column that has one a row; `BatchError` if one batch may not have so many."""
    rows = len(batch[name].flatten())
    if rows > MAX_RECORDS:
        raise BatchError(f"a batch has at most {MAX_RECORDS} {what}, this one {rows}")
    return rows


def numbers(batch: Fields, rows: int, name: str, *, most: int | None = None) -> np.ndarray:
    """Return a column of numbers, none larger than `most`."""
    values: np.ndarray = batch[name].flatten().to_numpy()
    if not len(values):
        return np.zeros(rows, np.int64)
    if len(values) != rows:
        raise BatchError(f"{name}: {len(values)} values for {rows} rows")
    if most is not None and (largest := values.max()) > most:
        raise BatchError(f"{name}: {largest} is not from 0 to {most}")
    return values.astype(np.int64, copy=False)


def text(batch: Fields, rows: int, name: str, default: str = "") -> pa.Array:
    """Return a column of texts, dictionary-encoded where it came so; `default` stands for the empty text."""
    values, indices = (part.flatten() for part in batch[name].flatten())
    if len(indices):
        if len(indices) != rows:
            raise BatchError(f"{name}: {len(indices)} values for {rows} rows")
        places = indices.to_numpy()
        if places.max() >= len(values):
            raise BatchError(f"{name}: there is no value {places.max()} among {len(values)}")
        return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32)), _known(values, default))
    if len(values) == rows and rows:
        return _known(values, default)
    if len(values) > 1 or (len(values) and not rows):
        raise BatchError(f"{name}: {len(values)} values for {rows} rows")
    one = _known(values, default) if len(values) else pa.array([default])
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), one)


def json_text(batch: Fields, rows: int, name: str, default: str = "{}") -> pa.Array:
    """Return a column of JSON texts that begin as `default` does: the database looks at the rest."""
    found = text(batch, rows, name, default)
    values = distinct(found)
    if values and not pc.all(pc.starts_with(values, default[0]), min_count=0).as_py():
        raise BatchError(f"{name}: each must be a JSON {'object' if default == '{}' else 'array'}")
    return found


def check_length(name: str, column: pa.Array) -> None:
    """Raise `BatchError` when a text of the column has more bytes than it may."""
    longest = pc.max(pc.binary_length(distinct(column))).as_py() or 0
    if longest > MAX_TEXT:
        raise BatchError(f"{name}: {longest} bytes are more than one may have, which is {MAX_TEXT}")


def shortened(column: pa.Array, most: int) -> pa.Array:
    """Return the column with texts of more than `most` bytes cut, such that none has more."""
    values = distinct(column)
    if (pc.max(pc.binary_length(values)).as_py() or 0) <= most:
        return column
    # A character has up to four bytes.
    cut = pc.if_else(pc.greater(pc.binary_length(values), most), pc.utf8_slice_codeunits(values, 0, most // 4), values)
    return pa.DictionaryArray.from_arrays(column.indices, cut) if pa.types.is_dictionary(column.type) else cut


def distinct(column: pa.Array) -> pa.Array:
    """Return an array that has each text of the column, some more than once."""
    return column.dictionary if pa.types.is_dictionary(column.type) else column


def filled(ids: pa.Array, others: pa.Array) -> pa.Array:
    """Return `ids`, with the other text where there is none."""
    known = pc.not_equal(plain(ids), "")
    if not len(ids) or pc.all(known).as_py():
        return ids
    return pc.if_else(known, plain(ids), plain(others))


def plain(column: pa.Array) -> pa.Array:
    """Return the column with its dictionary decoded."""
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def noted(attributes: pa.Array, notes: Mapping[int, str]) -> pa.Array:
    """Return JSON objects, of which those in the rows of `notes` have these members too, such as `"a":1`."""
    texts = plain(attributes).to_pylist()
    for row, members in notes.items():
        rest = texts[row].lstrip()[1:].lstrip()
        texts[row] = f"{{{members}{'' if rest.startswith('}') else ','}{rest}"
    return pa.array(texts, pa.string())


def _known(values: pa.Array, default: str) -> pa.Array:
    return pc.if_else(pc.equal(values, ""), default, values) if default else values
