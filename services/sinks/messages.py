"""Messages of protobuf as Arrow's columns, many at once, by ptars. Decides, and does no I/O.

A message that is none is refused as protobuf's own library would refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import ptars
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError, Message

# ptars knows no bound to groups within groups, and its stack overflows at some thousands, which ends the process. A
# message nests no deeper than it has bytes: longer ones are shown first to protobuf's own library, which refuses them.
_SHALLOW = 512

# The fields of messages by their names, each an array with one item a message.
Fields: TypeAlias = Mapping[str, pa.Array]


class Columns:
    """Reads messages of one kind."""

    def __init__(self, kind: type[Message]) -> None:
        self._kind = kind
        self._handler: Any = ptars.HandlerPool([kind.DESCRIPTOR.file]).get_for_message(kind.DESCRIPTOR)

    def read(self, messages: pa.Array) -> dict[str, pa.Array]:
        """Return the fields of encoded messages; raises `DecodeError`."""
        sizes = pc.binary_length(messages).to_numpy(zero_copy_only=False)
        for place in np.flatnonzero(sizes > _SHALLOW).tolist():
            self._kind.FromString(messages[place].as_py())
        try:
            found = self._handler.array_to_record_batch(messages)
        except ValueError as error:
            raise DecodeError(str(error).removeprefix("failed to decode Protobuf message: ")) from error
        except BaseException as error:
            if type(error).__name__ == "PanicException":  # Rust's: no subclass of Exception, and nowhere to import from
                raise DecodeError(f"a {self._kind.DESCRIPTOR.name} is malformed") from error
            raise
        return dict(zip(found.schema.names, found.columns, strict=True))


def fields_of(message: Message) -> Fields:
    """Return the fields of one message."""
    return Columns(type(message)).read(pa.array([message.SerializeToString()], pa.binary()))


def inner(messages: pa.StructArray) -> Fields:
    """Return the fields of messages that are a field of others."""
    return dict(zip((field.name for field in messages.type), messages.flatten(), strict=True))


def flat(lists: pa.ListArray) -> tuple[pa.Array, np.ndarray]:
    """Return the items of lists one after the other, and how many each list has."""
    offsets = lists.offsets.to_numpy()
    return lists.flatten(), np.diff(offsets)


def hexadecimal(ids: pa.Array) -> pa.Array:
    """Return bytes as texts, all at once."""
    if ids.offset:
        ids = pa.concat_arrays([ids, pa.array([], ids.type)])
    _, places, data = ids.buffers()
    offsets = np.frombuffer(places, np.int32, len(ids) + 1)
    digits = memoryview(data)[offsets[0] : offsets[-1]].hex().encode() if data is not None else b""
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer((offsets - offsets[0]) * 2), pa.py_buffer(digits))
