"""Sockets: bytes in, events out; and what is to be written, once per connection and turn of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from proxy.engines.wire import endings
from proxy.engines.wire.h2 import ENHANCE_YOUR_CALM, Http2, Library, Over
from proxy.engines.wire.joining import JOIN_FROM, join

if TYPE_CHECKING:
    from proxy.engines.wire.exchange import Exchange

_log = logging.getLogger(__name__)

Handlers = dict[type, Callable[[Any, Any], None]]

# What is taken from the library for one write: it copies what is larger once more.
_CHUNK = 64 * 1024
# Above this many bytes that the socket did not take, nothing more is taken from the library.
_WRITE_BUFFER = 64 * 1024
# How long a peer may take to read the last bytes of a connection.
_LINGER_SECONDS = 5.0
# How many streams are settled after one flush.
_SETTLED_AT_ONCE = 64


OVER = Over()


class Turns:
    """The connections that have something to write.

    Writing at the end of a turn instead of at once lets the frames of many calls leave in one system call. With one
    call in flight there is nothing to wait for.
    """

    __slots__ = ("_alone", "_loop", "_scheduled", "dirty", "reading")

    def __init__(self, loop: asyncio.AbstractEventLoop, alone: Callable[[], bool]) -> None:
        self._loop = loop
        self._alone = alone
        self._scheduled = False
        self.dirty: list[Connection] = []
        # A connection is handling what it received; it calls `end_reading`.
        self.reading = False

    def add(self, connection: Connection) -> None:
        """Note a connection to be flushed."""
        self.dirty.append(connection)
        if not self.reading and not self._scheduled:
            self._schedule()

    def end_reading(self) -> None:
        """Flush now or at the end of the turn."""
        self.reading = False
        if self.dirty and not self._scheduled:
            if self._alone():
                self.run()
            else:
                self._schedule()

    def run(self) -> None:
        """Flush what is dirty, and what becomes dirty by that."""
        self._scheduled = True
        dirty = self.dirty
        # The list grows while it is walked; by a settled stream's window update at most once per connection and turn.
        for connection in dirty:
            try:
                connection.flush()
            except Exception:  # noqa: BLE001 - one connection's trouble
                _log.exception("the engine failed to write to a connection")
                connection.abort()
        self.dirty = []
        self._scheduled = False

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` after some time."""
        self._loop.call_later(seconds, callback)

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self.run)


class Connection:
    """One HTTP/2 connection, of a client or to an endpoint.

    An asyncio.Protocol by what it does; were it one by inheritance, its compiled methods would be looked up by name.
    """

    __slots__ = (
        "_direct",
        "_fd",
        "_unsettled",
        "blocked",
        "closed",
        "dead",
        "dirty",
        "h2",
        "handlers",
        "library",
        "streams",
        "transport",
        "turns",
        "watched",
    )

    def __init__(self, library: Library, h2: Http2, handlers: Handlers, turns: Turns) -> None:
        self.library = library
        self.h2 = h2
        self.handlers = handlers
        self.turns = turns
        self.transport: asyncio.Transport | None = None
        self._fd = -1
        # The socket is closed; no call uses it any more, whatever is still written.
        self.closed = False
        self.dead = False
        # It is in the list of what is flushed; the socket takes no more.
        self.dirty = False
        self.blocked = False
        self.streams: dict[int, Exchange] = {}
        # Streams, of which bytes may lie in the library, whose senders wait for credit.
        self.watched: dict[int, Exchange] = {}
        self._unsettled = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        # A socket without TLS is written to directly: half the cost of a transport's write.
        if transport.get_extra_info("sslcontext") is None:
            self._fd = transport.get_extra_info("socket").fileno()
        self.mark()

    def data_received(self, data: bytes) -> None:
        if self.dead:
            return
        turns = self.turns
        turns.reading = True
        h2 = self.h2
        try:
            h2.receive_data(data)
        except self.library.errors as error:
            # What the library does not forgive its peer.
            self.die(error, ENHANCE_YOUR_CALM)
        else:
            events = h2.events()
            if h2.want_read:
                if len(events) >= JOIN_FROM:
                    events = join(events, self.library.Data)
                self._handle(events)
                if not self.dirty and h2.want_write:
                    self.mark()
            else:
                self._last_events(events)
        turns.end_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._fd = -1
        turns = self.turns
        turns.reading = True
        self.die(exc)
        turns.end_reading()

    def eof_received(self) -> None:
        """Have the transport close: a peer that has ended its sending is gone."""

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        if not self.dirty:
            self.mark()

    def mark(self) -> None:
        """Have it flushed in this turn."""
        if not self.dirty:
            self.dirty = True
            self.turns.add(self)

    def flush(self) -> None:
        """Write what the library has to send."""
        self.dirty = False
        if self.blocked or self.dead:
            return
        h2 = self.h2
        written = 0
        while out := h2.data_to_send(_CHUNK):
            self._write(out)
            written += len(out)
            if self.blocked or len(out) < _CHUNK // 2:
                break
        if written:
            events = h2.events()
            if not h2.want_read:
                # The library has sent its last GOAWAY.
                self._last_events(events)
                return
            if events:
                self._handle(events)
            if self.watched:
                self._unsettled = len(self.watched)
        if self._unsettled:
            self._settle()
        self.on_flushed()

    def close(self) -> None:
        """Close the socket once what was written has left, or its peer took too long over it."""
        transport = self.transport
        if transport is not None and not self.closed:
            if transport.get_write_buffer_size():
                self.turns.later(_LINGER_SECONDS, transport.abort)
            transport.close()

    def abort(self) -> None:
        """Close the socket at once."""
        if self.transport is not None:
            self.transport.abort()

    def credit(self, stream_id: int, amount: int) -> None:
        """Give `amount` received bytes back to the peer."""
        h2 = self.h2
        h2.acknowledge_received_data(amount, stream_id)
        if not self.dirty and h2.want_write:
            self.mark()

    def _last_events(self, events: list[Any]) -> None:
        """Handle what came with the end of the connection, when nothing can be sent on it any more."""
        rest = self.h2
        self.h2 = OVER
        self.on_over()
        if not self.dead:
            self._handle(events)
        self.h2 = rest
        self._write_all()
        self.die(None)

    def die(self, error: Exception | None, code: int | None = None) -> None:
        """End its calls: it is lost, or over; `code` tells the peer."""
        if self.dead:
            return
        self.dead = True
        self.on_lost(error)
        if code is not None and not self.closed:
            if not self.blocked:
                self._write_all()  # what is queued, resets above all, would be lost by what comes now
            with contextlib.suppress(*self.library.errors):
                self.h2.terminate_connection(code)
            self._write_all()
        self.h2 = OVER
        self.close()

    def on_lost(self, error: Exception | None) -> None:
        """Handle the end of the connection."""
        raise NotImplementedError

    def on_over(self) -> None:
        """Handle that the connection takes no more, before its last events are handled."""

    def on_flushed(self) -> None:
        """Handle that what could be written was written."""

    def settle(self, stream_id: int, exchange: Exchange) -> bool:
        """Give credit for what has left on a watched stream; returns whether it is still to be watched."""
        raise NotImplementedError

    def as_protocol(self) -> asyncio.Protocol:
        """Return what asyncio calls."""
        return cast("asyncio.Protocol", self)

    def _handle(self, events: list[Any]) -> None:
        handlers = self.handlers
        for event in events:
            handler = handlers.get(event.__class__)
            if handler is None:
                continue
            if self.dead:
                return
            try:
                handler(self, event)
            except Exception:  # noqa: BLE001 - one call's trouble
                # One call's trouble: neither the connection nor the process is to pay for it.
                _log.exception("the engine failed on %s", type(event).__name__)
                self._on_defect(event)

    def _on_defect(self, event: Any) -> None:
        exchange = self.streams.get(getattr(event, "stream_id", 0))
        if exchange is None:
            return
        try:
            endings.fail(exchange)
        except Exception:  # noqa: BLE001 - likewise
            _log.exception("the engine could not answer a call")
            endings.drop(exchange)

    def _settle(self) -> None:
        # A bounded number each turn, oldest first: a client with a thousand stalled streams costs what one costs.
        watched = self.watched
        for stream_id in list(watched)[: min(self._unsettled, _SETTLED_AT_ONCE)]:
            exchange = watched.pop(stream_id)
            self._unsettled -= 1
            if self.settle(stream_id, exchange):
                watched[stream_id] = exchange
        if watched and self._unsettled > 0:
            self.mark()
        else:
            self._unsettled = 0

    def _write_all(self) -> None:
        with contextlib.suppress(*self.library.errors):
            while not self.closed and (out := self.h2.data_to_send(_CHUNK)):
                self._write(out)

    def _write(self, out: bytes) -> None:
        transport = self.transport
        assert transport is not None
        if self._fd >= 0 and not transport.get_write_buffer_size():
            try:
                sent = os.write(self._fd, out)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                transport.abort()
                return
            if sent == len(out):
                return
            out = out[sent:]
        transport.write(out)
