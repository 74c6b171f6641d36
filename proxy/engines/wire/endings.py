"""How a call can end without its upstream's word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.resilience import outcome
from proxy.call.reason import Reason
from proxy.engines.wire.h2 import CANCEL, INTERNAL_ERROR
from proxy.upstream.retry import Failure, may_retry

if TYPE_CHECKING:
    from proxy.engines.wire.exchange import Exchange


def attempt_failed(exchange: Exchange, failure: Failure, why: str) -> None:
    """Handle a failed connection: try another endpoint where nobody would notice, else tell the client."""
    call = exchange.call
    exchange.detach(None)
    connect = failure is Failure.CONNECT
    reason = Reason.UPSTREAM_CONNECT_FAILED if connect else Reason.UPSTREAM_RESET
    what = "cannot be reached" if connect else "went away during the call"
    routed = exchange.attempting
    exchange.attempt_ended(reason.code, f"{who(exchange)} {what}: {why}", reason)
    if routed and may_retry(call, failure, replayable=exchange.body is not None):
        exchange.attempt()
    elif not routed or not again(exchange, failure):
        exchange.answer()


def again(exchange: Exchange, failure: Failure | None) -> bool:
    """Have the attempt that ended made again where the policy of the route asks for it; tells whether it will be."""
    return exchange.again is not None and exchange.again.take(failure)


def expire(exchange: Exchange) -> None:
    """Handle the end of the caller's patience."""
    exchange.slot = None
    exchange.attempt_ended(outcome.DEADLINE_EXCEEDED, _deadline_message(exchange), Reason.DEADLINE_EXCEEDED)
    h2 = exchange.session.h2
    if exchange.started and h2.queued_body_size(exchange.stream_id):
        # The client does not read; a status behind what it does not read would keep all of it here.
        h2.reset_stream(exchange.stream_id, CANCEL)
        exchange.finish(reset=False)
    else:
        exchange.answer()


def client_gone(exchange: Exchange) -> None:
    """Handle a client that reset the stream, or whose connection is gone."""
    call = exchange.call
    if call.deadline is not None and call.deadline <= exchange.engine.dispatcher.now():
        status, message, reason = outcome.DEADLINE_EXCEEDED, _deadline_message(exchange), Reason.DEADLINE_EXCEEDED
        exchange.attempt_ended(status, message, reason)
    else:
        exchange.attempt_ended(outcome.CANCELLED, "the client cancelled the call")
    exchange.finish(reset=False)


def overloaded(exchange: Exchange, message: str) -> None:
    """Refuse a call for which there is no room at the endpoint."""
    exchange.attempt_ended(Reason.OVERLOADED.code, message, Reason.OVERLOADED)
    exchange.answer()


def drained(exchange: Exchange) -> None:
    """End a call that outlived the grace of a stopping edge."""
    message = "the edge is stopping and the call outlived its grace"
    exchange.attempt_ended(outcome.UNAVAILABLE, message, Reason.DRAINING)
    exchange.answer()


def fail(exchange: Exchange) -> None:
    """End the call after an error of ours."""
    if not exchange.done:
        exchange.attempt_ended(outcome.INTERNAL, "the edge failed", Reason.INTERNAL)
        exchange.answer()


def drop(exchange: Exchange) -> None:
    """End the call without an answer, after an error of ours while answering."""
    if not exchange.done:
        exchange.attempt_ended(outcome.INTERNAL, "the edge failed", Reason.INTERNAL)
        exchange.finish(reset=False)
        if not exchange.session.dead:
            exchange.session.h2.reset_stream(exchange.stream_id, INTERNAL_ERROR)


def _deadline_message(exchange: Exchange) -> str:
    call = exchange.call
    assert call.deadline is not None
    where = f" waiting for {call.endpoint.service}" if call.endpoint is not None else ""
    return f"the deadline of {call.deadline - call.started_at:.3f} s passed{where}"


def who(exchange: Exchange) -> str:
    """Return how messages call the upstream."""
    endpoint = exchange.call.endpoint
    return "the edge" if endpoint is None else f"instance {endpoint.instance_id} of {endpoint.service}"
