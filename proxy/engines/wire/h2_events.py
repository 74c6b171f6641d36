"""What happens on a connection, and what is kept of a stream, in the pure implementation of HTTP/2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from proxy.engines.wire.h2 import Header


class Request(NamedTuple):
    """See h2.HeadersEvent."""

    stream_id: int
    headers: tuple[Header, ...]
    end_stream: bool


class Response(Request):
    """See h2.HeadersEvent."""


class Trailers(NamedTuple):
    """See h2.HeadersEvent; the stream ends with them."""

    stream_id: int
    headers: tuple[Header, ...]


class Data(NamedTuple):
    """See h2.DataEvent."""

    stream_id: int
    data: bytes
    end_stream: bool


class Closed(NamedTuple):
    """See h2.ClosedEvent."""

    stream_id: int
    error_code: int


class Reset(NamedTuple):
    """The peer reset a stream."""

    stream_id: int
    error_code: int


class Settings(NamedTuple):
    """The peer's settings came."""

    settings: Mapping[int, int]


class WindowUpdated(NamedTuple):
    """A window of the peer was opened."""

    stream_id: int
    increment: int


class Ping(NamedTuple):
    """The peer pinged."""

    opaque_data: bytes


class PingAcknowledged(NamedTuple):
    """The peer answered a ping."""

    opaque_data: bytes


class GoAway(NamedTuple):
    """See h2.GoAwayEvent."""

    last_stream_id: int
    error_code: int


class OutStream:
    """What is to be sent on a stream, and which sides have ended."""

    __slots__ = ("ended", "queue", "received_end", "sent_end", "trailers")

    def __init__(self) -> None:
        self.queue = bytearray()
        # All was handed over; its end was written; the peer's end came.
        self.ended = False
        self.trailers: list[Header] | None = None
        self.sent_end = False
        self.received_end = False
