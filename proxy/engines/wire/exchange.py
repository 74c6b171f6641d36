"""One call between its two streams. No I/O of its own: it writes into the connections' libraries."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from proxy.call.call import Call
from proxy.call.reason import Reason, Reject
from proxy.engines.wire import endings
from proxy.engines.wire.credit import Lane
from proxy.engines.wire.framing import PREFIX, Meter
from proxy.engines.wire.h2 import CANCEL, LAST_USABLE_STREAM, NO_ERROR, Header
from proxy.engines.wire.headers import check_printable, request_head
from proxy.engines.wire.mind import mind
from proxy.engines.wire.replies import CONTENT_TYPE, STATUS_200, status_trailers

if TYPE_CHECKING:
    import asyncio

    from proxy.engines.wire.again import Again
    from proxy.engines.wire.engine import WireEngine
    from proxy.engines.wire.mirroring import Copy
    from proxy.engines.wire.pool import Pool
    from proxy.engines.wire.session import Session
    from proxy.engines.wire.upstream import Upstream
    from proxy.upstream.endpoint import Endpoint

_log = logging.getLogger(__name__)

# A request up to this size can be sent to another endpoint when the first one turns out to be away.
REPLAY_BYTES = 64 * 1024

_REASONS = {reason.wire: reason for reason in Reason}


class Exchange:
    """A call from its first header to its end."""

    __slots__ = (
        "admitting",
        "again",
        "attempting",
        "authority",
        "body",
        "body_bytes",
        "call",
        "copy",
        "done",
        "engine",
        "max_message_bytes",
        "pool",
        "reply_lane",
        "reply_meter",
        "reply_sent",
        "request_ended",
        "request_lane",
        "request_meter",
        "request_sent",
        "session",
        "slot",
        "started",
        "stream_id",
        "unpaid",
        "upstream",
        "upstream_ended",
        "upstream_id",
    )

    def __init__(self, engine: WireEngine, session: Session, stream_id: int, call: Call, authority: Header) -> None:
        self.engine = engine
        self.max_message_bytes = engine.max_message_bytes
        self.session = session
        self.stream_id = stream_id
        self.call = call
        self.authority = authority
        # The copy of its request, where its route is mirrored.
        self.copy: Copy | None = None
        # Set while asynchronous interceptors run.
        self.admitting: asyncio.Task[None] | None = None
        # Its retries, where its route has a policy for them.
        self.again: Again | None = None
        # An endpoint was picked and its attempt has not ended.
        self.attempting = False
        # Where it waits for a connection, and the stream that it got there.
        self.pool: Pool | None = None
        self.upstream: Upstream | None = None
        self.upstream_id = 0
        self.upstream_ended = False
        # What can be sent again, None once that is given up; and what of it the client has no credit for yet.
        self.body: list[bytes] | None = []
        self.body_bytes = 0
        self.unpaid = 0
        self.request_ended = False
        # Headers went to the client; the call is over.
        self.started = False
        self.done = False
        # The set of the deadline wheel that it is in.
        self.slot: set[Exchange] | None = None
        self.request_meter: Meter | None = None
        self.reply_meter: Meter | None = None
        # Bytes passed on so far; from `credit.EARLY` on the lanes know.
        self.request_sent = 0
        self.reply_sent = 0
        self.request_lane: Lane | None = None
        self.reply_lane: Lane | None = None

    # The way in.

    def start(self) -> None:
        """Take the call through the pipeline and on its way."""
        call, engine = self.call, self.engine
        assert call.pipeline is not None
        if call.pipeline.is_async:
            self.admitting = engine.own(self._admit())
            return
        try:
            check_printable(call, engine.dispatcher.admit(call))
        except Reject as rejection:
            self.refuse(rejection)
            return
        self._admitted()

    async def _admit(self) -> None:
        try:
            check_printable(self.call, await self.engine.dispatcher.admit_async(self.call))
        except Reject as rejection:
            self.admitting = None
            self.refuse(rejection)
            return
        except Exception:  # noqa: BLE001 - whatever it is, the call is answered
            self.admitting = None
            _log.exception("an interceptor failed")
            endings.fail(self)
            return
        self.admitting = None
        self._admitted()

    def _admitted(self) -> None:
        call, engine = self.call, self.engine
        route = call.route
        assert route is not None
        if not route.plain:
            mind(self, route)
        if call.deadline is not None:
            self.slot = engine.deadlines.add(self, call.deadline)
            if engine.deadline_timer is None:
                engine.watch_deadlines()
        if route.is_local:
            engine.local[call.listener].submit(self)
        else:
            self.attempt()

    def attempt(self) -> None:
        try:
            endpoint = self.engine.dispatcher.next_endpoint(self.call)
        except Reject as rejection:
            if self.again is None or not self.again.take_rejected():
                self.refuse(rejection)
            return
        self.go(endpoint)

    def go(self, endpoint: Endpoint) -> None:
        """Make an attempt on an endpoint."""
        self.attempting = True
        if self.again is not None:
            self.again.watch()
        engine = self.engine
        (engine.pools.get(endpoint) or engine.pool(endpoint)).submit(self)

    def attach(self, upstream: Upstream) -> None:
        """Send the request, as far as it has come, on a connection that has room for it."""
        self.pool = None
        body, ended, h2 = self.body, self.request_ended, upstream.h2
        assert body is not None
        head = request_head(self.call, self.authority, self.engine.dispatcher.now())
        self.upstream_id = stream_id = h2.send_request(head, end_stream=ended and not body)
        self.upstream = upstream
        self.upstream_ended = False
        upstream.streams[stream_id] = self
        if not upstream.dirty:
            upstream.mark()
        if body:
            h2.send_data(stream_id, body[0] if len(body) == 1 else b"".join(body), end_stream=ended)
            self._pay_body()
        if stream_id > LAST_USABLE_STREAM:
            upstream.go()

    def _pay_body(self) -> None:
        """Give credit for a body that came before there was a stream to send it on."""
        unpaid, self.unpaid = self.unpaid, 0
        lane = self.request_lane
        if lane is not None:
            lane.sent = self.body_bytes - unpaid
        self.request_sent = self.body_bytes - unpaid
        if unpaid:
            self.sent_up(unpaid)
        if self.body_bytes > REPLAY_BYTES:
            self.body = None

    def measure_request(self, data: bytes) -> bool:
        """Count bytes of the client; returns False when the call was refused for the size of a message."""
        meter = self.request_meter
        if meter is None:
            size = int.from_bytes(data[1:PREFIX], "big")
            if size + PREFIX == len(data) and size <= self.max_message_bytes:
                # One message that fills its frame, as nearly all do: no state is needed.
                call = self.call
                call.messages_in += 1
                call.bytes_in += size
                return True
            meter = self.request_meter = Meter(self.max_message_bytes)
        over = meter.feed(data)
        if over:
            self._too_large(over, "client")
        return not over

    def measure_reply(self, data: bytes) -> bool:
        """Count bytes of the upstream; returns False when the call was refused for the size of a message."""
        meter = self.reply_meter
        if meter is None:
            size = int.from_bytes(data[1:PREFIX], "big")
            if size + PREFIX == len(data) and size <= self.max_message_bytes:
                call = self.call
                call.messages_out += 1
                call.bytes_out += size
                return True
            meter = self.reply_meter = Meter(self.max_message_bytes)
        over = meter.feed(data)
        if over:
            self._too_large(over, "upstream")
        return not over

    def request_whole(self) -> None:
        """Note that the client has sent all."""
        self.request_ended = True
        self.call.request_ended_at = self.engine.dispatcher.now()
        if self.copy is not None:
            self.copy.end()

    def _too_large(self, size: int, sender: str) -> None:
        """Refuse a message that is over the limit."""
        rejection = self.engine.dispatcher.limits_of(self.call).message_too_large(size, sender)
        self.attempt_ended(rejection.reason.code, rejection.message, rejection.reason)
        self.answer()

    def sent_up(self, size: int) -> None:
        """Note that `size` bytes of the client were handed on."""
        lane, upstream, session = self.request_lane, self.upstream, self.session
        assert upstream is not None
        if lane is None:
            lane = self.request_lane = Lane(self.request_sent)
        now = lane.receive(size)
        if now:
            session.credit(self.stream_id, now)
        if lane.owed:
            upstream.watched[self.upstream_id] = self

    def sent_down(self, size: int) -> None:
        """Note that `size` bytes of the upstream were handed on."""
        lane, upstream, session = self.reply_lane, self.upstream, self.session
        assert upstream is not None
        if lane is None:
            lane = self.reply_lane = Lane(self.reply_sent)
        now = lane.receive(size)
        if now:
            upstream.credit(self.upstream_id, now)
        if lane.owed:
            session.watched[self.stream_id] = self

    # Its end.

    def refuse(self, rejection: Reject) -> None:
        """Answer the call here and now."""
        self.call.reject(rejection)
        self.answer(rejection.trailers)

    def answer(self, given: tuple[Header, ...] = ()) -> None:
        """Send the call's status, written by the edge, and end the call."""
        call, h2 = self.call, self.session.h2
        if not self.started:
            h2.send_response(self.stream_id, [STATUS_200, CONTENT_TYPE, *call.reply_metadata])
        h2.send_trailers(self.stream_id, status_trailers(call, given))
        self.finish()

    def attempt_ended(self, status: int, message: str, reason: Reason | None = None, *, given: bytes = b"") -> None:
        """Note the outcome; `given` is a reason that the upstream sent, of note when that is the edge itself."""
        call = self.call
        if self.attempting:
            self.attempting = False
            self.engine.dispatcher.end_attempt(call, status, message, reason)
        else:
            call.finish(status, message, reason or (_REASONS.get(given) if given else None))

    def detach(self, error_code: int | None) -> None:
        """Leave the upstream's stream or the queue for one; `error_code` resets the stream."""
        pool, upstream = self.pool, self.upstream
        if pool is not None:
            self.pool = None
            pool.waiting.pop(self, None)
        if upstream is None:
            return
        self.upstream = None
        stream_id = self.upstream_id
        lane = self.reply_lane
        if lane is not None and lane.owed:
            upstream.credit(stream_id, lane.owed)
            lane.owed = 0
            self.session.watched.pop(self.stream_id, None)
        lane = self.request_lane
        if lane is not None and lane.owed:
            self.session.credit(self.stream_id, lane.owed)
            lane.owed = 0
            upstream.watched.pop(stream_id, None)
        upstream.release(stream_id, error_code)

    def finish(self, *, reset: bool = True) -> None:
        """Let go of everything; `reset` ends the client's sending, where it still sends, after the answer."""
        self.done = True
        session, upstream, call = self.session, self.upstream, self.call
        if upstream is not None:
            # An upstream that answers before it has the whole request does not want the rest.
            over = upstream.dead or (
                self.upstream_ended and self.request_ended and not upstream.h2.queued_body_size(self.upstream_id)
            )
            self.detach(None if over else CANCEL)
        elif self.pool is not None:
            self.detach(None)
        if self.unpaid:
            session.credit(self.stream_id, self.unpaid)
        if self.slot is not None:
            self.slot.discard(self)
        if self.admitting is not None:
            self.admitting.cancel()
        if self.again is not None:
            self.again.cancel()
        if self.request_meter is not None:
            call.messages_in += self.request_meter.messages
            call.bytes_in += self.request_meter.bytes
        if self.reply_meter is not None:
            call.messages_out += self.reply_meter.messages
            call.bytes_out += self.reply_meter.bytes
        session.release(self, NO_ERROR if reset and not self.request_ended else None)
        self.engine.dispatcher.end(call)
        # The access log keeps the call for a while, and has no use for these.
        call.by_name = None
        call.metadata = ()
        if self.copy is not None:
            self.copy.let_go()
