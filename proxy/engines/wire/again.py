"""Attempts that a policy has made again: the time of one, the wait for the next, the answer held meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from mesh.resilience import outcome
from proxy.call.reason import TRAILER, Reason, Reject
from proxy.engines.wire import endings
from proxy.engines.wire.h2 import CANCEL, Header
from proxy.engines.wire.replies import GRPC_MESSAGE, GRPC_STATUS
from proxy.engines.wire.wheel import TICK_SECONDS, Wheel
from proxy.upstream.retry import Failure, Retries

if TYPE_CHECKING:
    from proxy.engines.wire.exchange import Exchange


_log = logging.getLogger(__name__)

# What the edge writes itself where it answers in the upstream's place.
_WRITTEN = frozenset({b":status", b"content-type", GRPC_STATUS, GRPC_MESSAGE, TRAILER})


class Again:
    """The retries of one call; calls on routes without a retry policy have none."""

    __slots__ = ("_exchange", "_held", "_retries", "_slot", "_waiting")

    def __init__(self, exchange: Exchange, retries: Retries) -> None:
        self._exchange = exchange
        self._retries = retries
        # Where in the wheel it waits, and what for: the next attempt, or else the end of the time of this one.
        self._slot: set[Again] | None = None
        self._waiting = False
        # What the upstream said beside the status of the attempt that ended.
        self._held: tuple[Header, ...] = ()

    def watch(self) -> None:
        """Look at the time of the attempt that begins."""
        seconds = self._retries.per_try_seconds
        if seconds is not None:
            self.cancel()
            self._wait(seconds)

    def take(self, failure: Failure | None, pushback: bytes | None = None, held: tuple[Header, ...] = ()) -> bool:
        """Have the attempt that ended followed by another one; False when it is the call's answer."""
        self.cancel()
        exchange = self._exchange
        now = exchange.engine.dispatcher.now()
        replayable = exchange.body is not None
        delay = self._retries.delay(exchange.call, failure, now, replayable=replayable, pushback=pushback)
        if delay is None:
            return False
        self._leave()
        self._held = held
        self._waiting = True
        self._wait(delay)
        return True

    def take_rejected(self) -> bool:
        """Do the same when there was no endpoint left to try at once."""
        call = self._exchange.call
        failure = _FAILURES.get(call.reason) if call.attempts and call.reason is not None else None
        return failure is not None and self.take(failure)

    def ring(self) -> None:
        """Do what it waited for."""
        if self._slot is None:
            return  # it was cancelled in the same tick
        self._slot = None
        if self._waiting:
            self._waiting = False
            self._begin()
        else:
            self._too_slow()

    def fail(self) -> None:
        """End the call after an error of ours."""
        endings.fail(self._exchange)

    def cancel(self) -> None:
        """Wait no longer."""
        if self._slot is not None:
            self._slot.discard(self)
            self._slot = None
        self._waiting = False

    def _wait(self, seconds: float) -> None:
        engine = self._exchange.engine
        self._slot = engine.alarms.add(self, engine.dispatcher.now() + seconds)

    def _begin(self) -> None:
        exchange = self._exchange
        try:
            endpoint = exchange.engine.dispatcher.retry_endpoint(exchange.call)
        except Reject:
            # There is nobody any more: then the answer is what the last one said.
            exchange.answer(tuple(pair for pair in self._held if pair[0] not in _WRITTEN))
        else:
            exchange.go(endpoint)

    def _too_slow(self) -> None:
        exchange = self._exchange
        if not exchange.attempting or exchange.body is None:
            return  # it answers, or cannot be made again: then its time is the call's
        message = f"{endings.who(exchange)} took longer than the {self._retries.per_try_seconds:g} s of an attempt"
        self._leave()
        exchange.attempt_ended(outcome.DEADLINE_EXCEEDED, message, Reason.DEADLINE_EXCEEDED)
        if not self.take(Failure.SLOW):
            exchange.answer()

    def _leave(self) -> None:
        """Leave the upstream's stream, and reset it unless it is over."""
        exchange = self._exchange
        upstream = exchange.upstream
        over = upstream is None or (
            exchange.upstream_ended
            and exchange.request_ended
            and not upstream.h2.queued_body_size(exchange.upstream_id)
        )
        exchange.detach(None if over else CANCEL)


# How an attempt failed after which there was no other endpoint.
_FAILURES = {Reason.UPSTREAM_CONNECT_FAILED: Failure.CONNECT, Reason.UPSTREAM_RESET: Failure.REFUSED}


class Alarms:
    """Wakes calls that wait, to within a tick; costs nothing while none does."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> None:
        self._loop = loop
        self._now = now
        self._wheel: Wheel[Again] = Wheel()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Again, due: float) -> set[Again]:
        """Have it ring when it is due; returns the set to discard it from when it shall not."""
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        return self._wheel.add(item, due)

    def stop(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = None
        for item in self._wheel.expire(self._now()):
            try:
                item.ring()
            except Exception:  # noqa: BLE001 - whatever it is, the other calls go on
                _log.exception("a retry failed")
                item.fail()
        if self._wheel and self._timer is None:
            self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
