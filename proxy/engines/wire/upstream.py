"""One connection to an endpoint, and what it sends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.engines.wire import endings, reply
from proxy.engines.wire.credit import EARLY, GROWN_REQUEST_WINDOW
from proxy.engines.wire.exchange import Exchange
from proxy.engines.wire.h2 import (
    MAX_CONCURRENT_STREAMS,
    NO_ERROR,
    ClosedEvent,
    DataEvent,
    GoAwayEvent,
    HeadersEvent,
    Library,
)
from proxy.engines.wire.joining import Joined
from proxy.engines.wire.transport import Connection, Handlers
from proxy.upstream.retry import Failure

if TYPE_CHECKING:
    from proxy.engines.wire.engine import WireEngine
    from proxy.engines.wire.pool import Pool

# Of a peer that names no limit.
_MANY = 2**31


class Upstream(Connection):
    """A connection to an endpoint."""

    __slots__ = ("engine", "going", "idle_since", "pool", "ready", "room")

    def __init__(self, engine: WireEngine, pool: Pool) -> None:
        h2 = engine.library.client(engine.http2)
        super().__init__(engine.library, h2, engine.upstream_handlers, engine.turns)
        self.engine = engine
        self.pool = pool
        # Done when the peer's SETTINGS came: it is there, and speaks HTTP/2.
        self.ready: asyncio.Future[None] = engine.loop.create_future()
        # How many streams the peer takes at a time.
        self.room = 0
        # It takes no further streams and is closed after the last one.
        self.going = False
        self.idle_since = engine.dispatcher.now()

    def on_settings(self, _event: object) -> None:
        """Learn what the peer allows."""
        self.room = min(self.h2.remote_settings.get(MAX_CONCURRENT_STREAMS, _MANY), _MANY)
        if not self.ready.done():
            self.ready.set_result(None)
        self.pool.serve()

    def on_response(self, event: HeadersEvent) -> None:
        """Pass the begin of a reply on."""
        exchange = self.streams.get(event.stream_id)
        if exchange is None:
            return
        if event.end_stream:
            exchange.upstream_ended = True
            reply.is_headers(exchange, event.headers)
        else:
            reply.begins(exchange, event.headers)

    def on_data(self, event: DataEvent) -> None:
        """Pass bytes of a reply on."""
        stream_id, data = event.stream_id, event.data
        size = len(data)
        exchange = self.streams.get(stream_id)
        if exchange is None:
            if size:
                self.credit(stream_id, size)
            return
        if size:
            if not exchange.measure_reply(data):
                self.credit(stream_id, size)
                return
            session = exchange.session
            session.h2.send_data(exchange.stream_id, data)
            if not session.dirty:
                session.mark()
            if exchange.reply_lane is None and (sent := exchange.reply_sent + size) <= EARLY:
                exchange.reply_sent = sent
                self.h2.acknowledge_received_data(size, stream_id)
            else:
                exchange.sent_down(size)
        if event.end_stream:
            exchange.upstream_ended = True
            reply.stops(exchange)

    def on_trailers(self, event: HeadersEvent) -> None:
        """Pass the end of a reply on."""
        exchange = self.streams.get(event.stream_id)
        if exchange is not None:
            exchange.upstream_ended = True
            reply.ends(exchange, event.headers)

    def on_closed(self, event: ClosedEvent) -> None:
        """Learn that a stream is over; when its reply has not ended, the upstream gave up on it."""
        exchange = self.streams.get(event.stream_id)
        if exchange is not None:
            reply.is_reset(exchange, event.error_code)

    def on_goaway(self, _event: GoAwayEvent) -> None:
        """Use it for no further stream; those that it will not process are closed by the library."""
        self.go()

    def on_over(self) -> None:
        self.going = True
        self.pool.lost(self)

    def on_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(str(error) if error else "the peer closed the connection"))
            self.ready.exception()  # whoever waits may have left: then nobody need hear of it
        self.pool.lost(self)
        why = f"the connection was lost ({error})" if error else "it closed the connection"
        for exchange in list(self.streams.values()):
            endings.attempt_failed(exchange, Failure.LOST, why)

    def release(self, stream_id: int, error_code: int | None) -> None:
        """Forget a stream; `error_code` resets it where it is open."""
        self.streams.pop(stream_id, None)
        self.watched.pop(stream_id, None)
        if self.dead:
            return
        if error_code is not None:
            self.h2.reset_stream(stream_id, error_code)
            if not self.dirty:
                self.mark()
        if not self.streams:
            self.idle_since = self.engine.dispatcher.now()
            if self.going:
                self._leave()
        if self.pool.waiting:
            self.pool.serve()

    def may_open(self) -> bool:
        """Tell whether one more stream may be opened."""
        return len(self.streams) < self.room and not self.going

    def settle(self, stream_id: int, exchange: Exchange) -> bool:
        lane = exchange.request_lane
        if lane is None:
            return False
        session = exchange.session
        queued = self.h2.queued_body_size(stream_id)
        pay = lane.settle(queued)
        if pay and not lane.grown and session.budget.take(GROWN_REQUEST_WINDOW):
            lane.grown = GROWN_REQUEST_WINDOW
            session.h2.set_local_window_size(GROWN_REQUEST_WINDOW, stream_id=exchange.stream_id)
            session.mark()
        if pay:
            session.credit(exchange.stream_id, pay)
        return lane.owed > 0

    def go(self) -> None:
        """Use it for no further stream; it is closed after the last one."""
        if not self.going:
            self.going = True
            self.pool.lost(self)
            if not self.streams:
                self._leave()

    def _leave(self) -> None:
        self.die(None, NO_ERROR)


def upstream_handlers(library: Library) -> Handlers:
    """Return what handles each event of a connection to an endpoint."""
    return {
        library.Response: Upstream.on_response,
        library.Data: Upstream.on_data,
        Joined: Upstream.on_data,
        library.Trailers: Upstream.on_trailers,
        library.Closed: Upstream.on_closed,
        library.Settings: Upstream.on_settings,
        library.GoAway: Upstream.on_goaway,
    }
