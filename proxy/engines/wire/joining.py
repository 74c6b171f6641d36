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
    """Return `events`, two at least, with small events of class `data` made one where a stream has several.

    The order of what happens on one stream is kept; between streams there is none to keep.
    """
    if events[0].__class__ is not data or events[1].__class__ is not data:
        return events  # many calls at a time, as their events begin: nothing to join
    joined: list[Any] = []
    # By stream, its pieces that can still grow, their size, and where they stand in `joined`.
    growing: dict[int, _Run] = {}
    for event in events:
        if event.__class__ is not data:
            if growing:
                growing.pop(getattr(event, "stream_id", 0), None)
            joined.append(event)
            continue
        stream_id, piece = event.stream_id, event.data
        run = growing.get(stream_id)
        if run is not None and piece and run.size < _JOINED:
            run.pieces.append(piece)
            run.size += len(piece)
            run.ended = event.end_stream
        elif piece and len(piece) < _SMALL and not event.end_stream:
            run = growing[stream_id] = _Run(event)
            joined.append(run)
            continue
        else:
            growing.pop(stream_id, None)
            joined.append(event)
            continue
        if run.ended:
            del growing[stream_id]
    return [one.event() if one.__class__ is _Run else one for one in joined]


class _Run:
    __slots__ = ("ended", "first", "pieces", "size")

    def __init__(self, first: Any) -> None:
        self.first = first
        self.pieces = [first.data]
        self.size = len(first.data)
        self.ended: bool = first.end_stream

    def event(self) -> Any:
        if len(self.pieces) == 1:
            return self.first
        return Joined(self.first.stream_id, b"".join(self.pieces), self.ended)
