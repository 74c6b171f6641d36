"""Small pieces of data, made one where they come together. Pure.

A call into the library and a look at a message cost the same for a byte as for a kilobyte.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Data is joined when so many events come together; pieces below this size, up to about that.
JOIN_FROM = 4
_SMALL = 4 * 1024
_JOINED = 16 * 1024


class Joined(NamedTuple):
    """Pieces of a body that came together; see h2.DataEvent."""

    stream_id: int
    data: bytes
    end_stream: bool


def join(events: list[Any], data: Any) -> list[Any]:
    """Return `events`, two at least, with runs of small events of class `data` on one stream made one each."""
    first, second = events[0], events[1]
    if first.__class__ is not data or second.__class__ is not data or first.stream_id != second.stream_id:
        return events  # many calls at a time, as their events begin: nothing to join
    joined: list[Any] = []
    position, end = 0, len(events)
    while position < end:
        event = events[position]
        position += 1
        if event.__class__ is data and not event.end_stream and len(event.data) < _SMALL:
            stream_id, parts, size, ended = event.stream_id, [event.data], len(event.data), False
            while position < end and not ended and size < _JOINED:
                follower = events[position]
                if follower.__class__ is not data or follower.stream_id != stream_id or not follower.data:
                    break
                parts.append(follower.data)
                size += len(follower.data)
                ended = follower.end_stream
                position += 1
            if len(parts) > 1:
                event = Joined(stream_id, b"".join(parts), ended)
        joined.append(event)
    return joined
