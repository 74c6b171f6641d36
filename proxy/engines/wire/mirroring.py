"""Copies of requests on their way to another service. No I/O of its own, as `exchange.py`.

A call that is copied feeds its copy, which is an exchange of its own whose client is nobody.
"""

from __future__ import annotations

import logging
from typing import Any

from mesh.resilience import outcome
from proxy.call.call import Call
from proxy.call.reason import Reason
from proxy.engines.wire.credit import Budget
from proxy.engines.wire.exchange import Exchange
from proxy.engines.wire.h2 import CANCEL, Header
from proxy.engines.wire.session import Session
from proxy.routing.mirror import GATE, LINGER_SECONDS, MARK, MARKED, MAX_BYTES, Mirror

_log = logging.getLogger(__name__)


class Copy(Exchange):
    """The copy of a request. Its answer is read and thrown away; it ends by itself, and nobody waits for it."""

    __slots__ = ("_mirror",)

    def __init__(self, original: Exchange, mirror: Mirror) -> None:
        call = original.call
        copied = Call(call.method, call.metadata, call.peer, call.listener, original.engine.dispatcher.now())
        copied.by_name = call.by_name
        copied.route = mirror.where
        copied.deadline = call.deadline
        copied.correlation_id = call.correlation_id
        copied.upstream_metadata = {**call.upstream_metadata, MARK: MARKED}
        super().__init__(original.engine, NOBODY, 0, copied, original.authority)
        self._mirror = mirror

    def feed(self, data: bytes) -> None:
        """Take a piece of the request; what the upstream does not take in time ends the copy."""
        if self.done:
            return
        upstream = self.upstream
        if upstream is not None:
            try:
                upstream.h2.send_data(self.upstream_id, data)
                if not upstream.dirty:
                    upstream.mark()
                waiting = upstream.h2.queued_body_size(self.upstream_id)
            except Exception:  # noqa: BLE001 - whatever it is, it is not the call's trouble
                _log.exception("a copy failed")
                waiting = MAX_BYTES + 1
        elif self.body is not None:
            self.body.append(data)
            self.body_bytes += len(data)
            waiting = self.body_bytes
        else:
            waiting = 0
        if waiting > MAX_BYTES:
            self.attempt_ended(outcome.UNAVAILABLE, "the upstream of the copy is too slow", Reason.OVERLOADED)
            self.finish()

    def end(self) -> None:
        """Note that the request is whole."""
        if self.done or self.request_ended:
            return
        self.request_ended = True
        upstream = self.upstream
        if upstream is not None:
            upstream.h2.end_stream(self.upstream_id)
            upstream.mark()

    def let_go(self) -> None:
        """Note that the call is over: the copy has a while to end, if it has the whole request."""
        if self.done:
            return
        if not self.request_ended:
            self.attempt_ended(outcome.CANCELLED, "the call ended before its request did")
            self.finish()
            return
        engine = self.engine
        latest = engine.dispatcher.now() + LINGER_SECONDS
        if self.call.deadline is None or self.call.deadline > latest:
            self.call.deadline = latest
            self.watch()

    def watch(self) -> None:
        """Have it end at its deadline."""
        deadline, engine = self.call.deadline, self.engine
        if self.slot is not None:
            self.slot.discard(self)
        if deadline is not None:
            self.slot = engine.deadlines.add(self, deadline)
            if engine.deadline_timer is None:
                engine.watch_deadlines()

    def sent_down(self, size: int) -> None:
        """Take bytes of the answer for read."""
        assert self.upstream is not None
        self.upstream.credit(self.upstream_id, size)

    def answer(self, given: tuple[Header, ...] = ()) -> None:
        """End: there is nobody to be told."""
        self.finish()

    def finish(self, *, reset: bool = True) -> None:
        """See Exchange.finish."""
        if self.done:
            return
        self.done = True
        self.engine.copies.discard(self)
        over = self.upstream is not None and self.upstream_ended and self.request_ended
        self.detach(None if over else CANCEL)
        if self.slot is not None:
            self.slot.discard(self)
        self._mirror.end(ok=self.call.status in (outcome.OK, outcome.CANCELLED))


class _Nowhere:
    """Takes what is said to the client of a copy."""

    def send_response(self, *_: object, **__: object) -> None: ...
    def send_trailers(self, *_: object, **__: object) -> None: ...
    def send_data(self, *_: object, **__: object) -> None: ...
    def reset_stream(self, *_: object, **__: object) -> None: ...

    def queued_body_size(self, _stream_id: int) -> int:
        return 0


class _Nobody(Session):
    """What a copy has for a client's connection."""

    def __init__(self) -> None:
        nowhere: Any = _Nowhere()
        self.h2 = nowhere
        self.dirty = True
        self.dead = False
        self.budget = Budget(0)
        self.watched = {}

    def mark(self) -> None: ...
    def credit(self, stream_id: int, amount: int) -> None: ...


NOBODY = _Nobody()


def begin(exchange: Exchange, mirror: Mirror) -> None:
    """Have a call that is about to go on its way copied, if it is one of those that are and there is room."""
    if not mirror.begin(exchange.call):
        return
    copy = Copy(exchange, mirror)
    endpoint = mirror.where.targets.pick(copy.call, GATE)
    if endpoint is None:
        mirror.end(ok=False)
        return
    copy.call.endpoint = endpoint
    exchange.engine.copies.add(copy)
    exchange.copy = copy
    for piece in exchange.body or ():
        copy.feed(piece)
    if exchange.request_ended:
        copy.end()
    if not copy.done:
        copy.watch()
        exchange.engine.pool(endpoint).submit(copy)
