"""One connection of a client, and what it sends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mesh.tls.material import ALPN
from proxy.engines.wire import endings
from proxy.engines.wire.credit import EARLY, GROWN_REPLY_WINDOW, Budget
from proxy.engines.wire.exchange import REPLAY_BYTES, Exchange
from proxy.engines.wire.h2 import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    ClosedEvent,
    DataEvent,
    Header,
    HeadersEvent,
    Library,
)
from proxy.engines.wire.joining import Joined
from proxy.engines.wire.peer import peer_name
from proxy.engines.wire.protection import Conduct
from proxy.engines.wire.transport import OVER, Connection, Handlers
from proxy.tls.peer import identity_of

if TYPE_CHECKING:
    from proxy.engines.wire.engine import WireEngine

# What a PING carries that tells when the client has seen the announcement of the end.
_DRAIN_PING = b"mesh-end"
# How long a client may take to answer it.
_DRAIN_SECONDS = 1.0

_AUTHORITY = b":authority"
_NO_AUTHORITY: Header = (_AUTHORITY, b"mesh")
_UNSUPPORTED_MEDIA_TYPE = ((b":status", b"415"),)
_METHOD_NOT_ALLOWED = ((b":status", b"405"), (b"allow", b"POST"))


class Session(Connection):
    """A client's connection."""

    __slots__ = (
        "_cut_off",
        "_drain_timer",
        "_lingering",
        "_newborn",
        "born_at",
        "budget",
        "conduct",
        "draining",
        "engine",
        "final",
        "greeted",
        "identity",
        "idle_since",
        "listener",
        "peer",
    )

    def __init__(self, engine: WireEngine, listener: str) -> None:
        h2 = engine.library.server(engine.http2)
        super().__init__(engine.library, h2, engine.session_handlers, engine.turns)
        self.engine = engine
        self.listener = listener
        self.peer = ""
        # Whose certificate it showed.
        self.identity = ""
        self.conduct = Conduct()
        self.budget = Budget(engine.protection.max_buffered_bytes)
        self.born_at = self.idle_since = engine.dispatcher.now()
        # The client's SETTINGS came; the end was announced; no further call is taken.
        self.greeted = False
        self.draining = False
        self.final = False
        # To be drained, once its client has shown that it has begun.
        self._newborn = False
        self._drain_timer: asyncio.TimerHandle | None = None
        # Answered streams whose client still sends: reset once the answer has left.
        self._cut_off: dict[int, int] = {}
        # Growth held by answered streams that the client has not read to the end.
        self._lingering: dict[int, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        secured = transport.get_extra_info("ssl_object")
        if secured is not None:
            if secured.selected_alpn_protocol() != ALPN:
                # It speaks something else: there is nothing to say to it.
                self.dead = self.closed = True
                self.h2 = OVER
                transport.close()
                return
            self.identity = identity_of(secured.getpeercert())
        super().connection_made(transport)
        self.peer = peer_name(transport.get_extra_info("peername"))
        if not self.engine.welcome(self):
            self.abort()
        elif self.engine.stopping:
            self.drain_newborn()

    # What the client sends.

    def on_request(self, event: HeadersEvent) -> None:
        """Begin a call."""
        stream_id, headers = event.stream_id, event.headers
        fields = dict(headers)
        if fields[b":method"] != b"POST":
            self._no_grpc(event, fields, _METHOD_NOT_ALLOWED)
            return
        if not fields.get(b"content-type", b"").startswith(b"application/grpc"):
            self._no_grpc(event, fields, _UNSUPPORTED_MEDIA_TYPE)
            return
        # The library lets pseudo headers come first only, and each once.
        authority = fields.get(_AUTHORITY)
        metadata = headers[3:] if authority is None else headers[4:]
        call = self.engine.dispatcher.begin(self.listener, fields[b":path"], metadata, self.peer, fields)
        if self.identity:
            call.peer_identity = self.identity
        head = _NO_AUTHORITY if authority is None else (_AUTHORITY, authority)
        exchange = self.streams[stream_id] = Exchange(self.engine, self, stream_id, call, head)
        if event.end_stream:
            exchange.request_ended = True
            call.request_ended_at = call.started_at
        exchange.start()

    def on_data(self, event: DataEvent) -> None:  # noqa: C901, PLR0912 - the busiest path: helpers would cost more
        """Pass bytes of a request on, or keep them until there is an upstream for them."""
        stream_id, data, ended = event.stream_id, event.data, event.end_stream
        size = len(data)
        exchange = self.streams.get(stream_id)
        if exchange is None:
            if size:  # of a call that is over: the connection's window needs it back all the same
                self.credit(stream_id, size)
            return
        if size:
            if not exchange.measure_request(data):
                self.credit(stream_id, size)
                return
            if exchange.copy is not None:
                exchange.copy.feed(data)
        elif not ended:
            self.conduct.empty_frames += 1
            self._mind_conduct()
            return
        if ended:
            exchange.request_whole()
        body = exchange.body
        if body is not None and size:
            body.append(data)
            exchange.body_bytes += size
        upstream = exchange.upstream
        if upstream is None:
            exchange.unpaid += size
            return
        if body is not None and exchange.body_bytes > REPLAY_BYTES:
            exchange.body = None
        upstream.h2.send_data(exchange.upstream_id, data, end_stream=ended)
        if not upstream.dirty:
            upstream.mark()
        if exchange.request_lane is None and (sent := exchange.request_sent + size) <= EARLY:
            exchange.request_sent = sent
            if size:
                self.h2.acknowledge_received_data(size, stream_id)
        elif size:
            exchange.sent_up(size)

    def on_trailers(self, event: HeadersEvent) -> None:
        """End a request; gRPC has no trailers of requests."""
        exchange = self.streams.get(event.stream_id)
        if exchange is None:
            return
        exchange.request_whole()
        upstream = exchange.upstream
        if upstream is not None:
            upstream.h2.end_stream(exchange.upstream_id)
            upstream.mark()

    def on_closed(self, event: ClosedEvent) -> None:
        """Learn that a stream is over; when its call is not, the client gave up."""
        stream_id = event.stream_id
        if self._lingering:
            self.budget.give(self._lingering.pop(stream_id, 0))
        if self._cut_off:
            self._cut_off.pop(stream_id, None)
        exchange = self.streams.get(stream_id)
        if exchange is not None:
            endings.client_gone(exchange)

    # How it behaves.

    def on_reset(self, _event: object) -> None:
        """Count a reset."""
        self.conduct.resets += 1
        self._mind_conduct()

    def on_control(self, _event: object) -> None:
        """Count a PING or SETTINGS."""
        self.greeted = True
        self.conduct.control_frames += 1
        self._mind_conduct()

    def on_window(self, _event: object) -> None:
        """Count a WINDOW_UPDATE."""
        conduct = self.conduct
        conduct.window_updates += 1
        if conduct.window_updates > self.engine.protection.window_updates_per_second:
            self._mind_conduct()

    def _mind_conduct(self) -> None:
        if self.conduct.too_much(self.engine.protection) and not self.final:
            self.final = True
            self.die(None, ENHANCE_YOUR_CALM)

    # Its end.

    def drain_newborn(self) -> None:
        """Drain a connection that has just begun, once its client answers.

        A client of grpc's core that reads GOAWAY together with our first SETTINGS may leave its call waiting for ever.
        """
        if self._newborn or self.draining or self.dead:
            return
        self._newborn = True
        self.h2.ping(_DRAIN_PING)
        self.mark()
        self._drain_timer = self.engine.loop.call_later(_DRAIN_SECONDS, self.drain)

    def drain(self) -> None:
        """Say that no further call is wanted; those under way, and those that crossed the word, are served."""
        if self.draining or self.dead:
            return
        self.draining, self._newborn = True, False
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self.h2.send_shutdown_notice()
        self.h2.ping(_DRAIN_PING)
        self.mark()
        # A client that does not answer pings has had its time.
        self._drain_timer = self.engine.loop.call_later(_DRAIN_SECONDS, self._refuse_further)

    def on_ping_answered(self, _event: object) -> None:
        """Take the answer to the PING that followed the announcement: the client has seen it."""
        if self._newborn:
            self.drain()
        elif self.draining:
            self._refuse_further()

    def _refuse_further(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None
        if not self.final and not self.dead:
            self.final = True
            self.h2.send_goaway(NO_ERROR)
            self.mark()

    def on_lost(self, error: Exception | None) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        for exchange in list(self.streams.values()):
            endings.client_gone(exchange)
        self.engine.farewell(self)

    # What calls do with it.

    def release(self, exchange: Exchange, error_code: int | None) -> None:
        """Forget a call that is over; `error_code` stops a client that still sends."""
        stream_id = exchange.stream_id
        self.streams.pop(stream_id, None)
        if self.dead:
            return
        if error_code is not None:
            self._cut_off[stream_id] = error_code
        lane = exchange.request_lane
        if lane is not None and lane.grown:
            self.budget.give(lane.grown)
        lane = exchange.reply_lane
        if lane is not None:
            self.watched.pop(stream_id, None)
            if lane.grown and self.h2.queued_body_size(stream_id):
                self._lingering[stream_id] = lane.grown
            elif lane.grown:
                self.budget.give(lane.grown)
        if not self.streams:
            self.idle_since = self.engine.dispatcher.now()
        if not self.dirty:
            self.mark()

    def on_flushed(self) -> None:
        if self._cut_off:
            h2 = self.h2
            for stream_id, error_code in list(self._cut_off.items()):
                # The reset must not overtake the answer.
                if not h2.queued_body_size(stream_id) and not self.blocked:
                    del self._cut_off[stream_id]
                    h2.reset_stream(stream_id, error_code)
                    self.mark()
        if self.final and not self.streams and not self.h2.want_write:
            self.die(None, NO_ERROR)

    def settle(self, stream_id: int, exchange: Exchange) -> bool:
        lane, upstream = exchange.reply_lane, exchange.upstream
        if lane is None or upstream is None:
            return False
        queued = self.h2.queued_body_size(stream_id)
        pay = lane.settle(queued)
        if pay and not lane.grown and self.budget.take(GROWN_REPLY_WINDOW):
            lane.grown = GROWN_REPLY_WINDOW
            upstream.h2.set_local_window_size(GROWN_REPLY_WINDOW, stream_id=exchange.upstream_id)
            upstream.mark()
        if pay:
            upstream.credit(exchange.upstream_id, pay)
        return lane.owed > 0

    def end_local(self) -> None:
        """End streams of the edge's own services: whoever watches it has seen that it drains."""
        for exchange in list(self.streams.values()):
            if exchange.started and exchange.call.endpoint is None:
                endings.drained(exchange)

    def end(self) -> None:
        """End what is left of its calls, and the connection."""
        for exchange in list(self.streams.values()):
            endings.drained(exchange)
        self.die(None, NO_ERROR)

    def _no_grpc(self, event: HeadersEvent, fields: dict[bytes, bytes], answer: tuple[Header, ...]) -> None:
        self.engine.dispatcher.note_no_grpc(self.listener, fields, self.peer, answer[0][1])
        self.h2.send_response(event.stream_id, answer, end_stream=True)
        if not event.end_stream:
            self._cut_off[event.stream_id] = CANCEL
        self.mark()


def session_handlers(library: Library) -> Handlers:
    """Return what handles each event of a client's connection."""
    return {
        library.Request: Session.on_request,
        library.Data: Session.on_data,
        Joined: Session.on_data,
        library.Trailers: Session.on_trailers,
        library.Closed: Session.on_closed,
        library.Reset: Session.on_reset,
        library.Settings: Session.on_control,
        library.Ping: Session.on_control,
        library.PingAcknowledged: Session.on_ping_answered,
        library.WindowUpdated: Session.on_window,
    }
