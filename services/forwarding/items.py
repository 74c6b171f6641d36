"""What waits to be sent on, and its form on disk. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import pyarrow as pa

from services.forwarding import logs, metrics, spans

_HEAD = struct.Struct(">BHII")


class Form(IntEnum):
    """How its bytes are to be read."""

    # An export of OTLP as it came.
    OTLP = 1
    # A table of the standard record, as Arrow's stream.
    LOGS = 2
    SPANS = 3
    # A `mesh.metrics.v1.PushRequest` that defines all its series.
    SAMPLES = 4


_EXPORTS = {Form.LOGS: logs.export, Form.SPANS: spans.export}


@dataclass(frozen=True, slots=True)
class Item:
    """What came in at once."""

    form: Form
    # Bytes, a `pyarrow.Table`, or `metrics.Told`.
    content: Any
    records: int
    # In memory.
    size: int
    # The control processes that it has come through.
    via: tuple[str, ...] = ()


def framed(items: Sequence[Item]) -> bytes:
    """Return items as one file holds them."""
    return b"".join(map(_frame, items))


def unframed(data: bytes) -> Iterator[Item]:
    """Yield the items of a file; raises ValueError when it is none."""
    place = 0
    while place < len(data):
        if place + _HEAD.size > len(data):
            raise ValueError("a frame is cut off")
        form, via, records, size = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        names, content = data[place : place + via], data[place + via : place + via + size]
        place += via + size
        if place > len(data):
            raise ValueError("a frame is cut off")
        yield Item(Form(form), content, records, size, tuple(filter(None, names.decode().split(","))))


def exported(item: Item) -> bytes:
    """Return an item as an export of OTLP; raises ValueError when its bytes are not what they should be."""
    if item.form is Form.OTLP:
        return bytes(item.content)
    try:
        if item.form is Form.SAMPLES:
            return metrics.export(item.content)
        table = item.content if isinstance(item.content, pa.Table) else _table(item.content)
        export: Callable[[pa.Table], bytes] = _EXPORTS[item.form]
        return export(table)
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(str(error)) from error


def _frame(item: Item) -> bytes:
    via, data = ",".join(item.via).encode(), _data(item.content)
    return _HEAD.pack(item.form, len(via), item.records, len(data)) + via + data


def _data(content: Any) -> bytes:
    if isinstance(content, pa.Table):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, content.schema) as stream:
            stream.write_table(content)
        return bytes(sink.getvalue().to_pybytes())
    return metrics.encoded(content) if isinstance(content, metrics.Told) else bytes(content)


def _table(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(data) as stream:
        return stream.read_all()
