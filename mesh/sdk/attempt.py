"""One try of a call on one endpoint, and what is learnt from its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import grpc

from mesh.resilience import outcome
from mesh.resilience.failure import connection_failure
from mesh.resilience.retry import PUSHBACK, Failure
from mesh.sdk.refusal import refusal

if TYPE_CHECKING:
    from mesh.sdk.endpoints import Endpoint
    from mesh.sdk.work import Work

_PUSHBACK = PUSHBACK.decode()
# grpc core ends a call at its deadline, but not while it is stuck in writing to a connection that takes nothing. Then
# the attempt is given up so many seconds later.
_GRACE_SECONDS = 0.1
_now = time.monotonic


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns that has nothing to wait for, None when it has."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    return None


class Attempt:
    """One try of a call on one endpoint."""

    __slots__ = (
        "_timer",
        "began",
        "code",
        "details",
        "endpoint",
        "failure",
        "inner",
        "limited",
        "overdue",
        "permit",
        "work",
    )

    def __init__(self, work: Work, endpoint: Endpoint, permit: int, began: float, *, limited: bool) -> None:
        # None once it has ended.
        self.work: Any = work
        self.endpoint = endpoint
        self.permit = permit
        self.began = began
        # Its time ends before the call's.
        self.limited = limited
        self.inner: Any = None
        self.code = -1
        self.details = ""
        self.failure: Failure | None = None
        # It was given up here, since core did not end it in time.
        self.overdue = False
        self._timer: asyncio.TimerHandle | None = None

    def bound(self, seconds: float) -> None:
        """See to it that it ends soon after `seconds`, whatever core does."""
        self._timer = asyncio.get_running_loop().call_later(seconds + _GRACE_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.work is not None:
            self.overdue = True
            self.inner.cancel()

    def ended(self, inner: Any) -> None:
        """Learn from its end; called by grpc in the moment that the end is known."""
        now = _now()
        status: grpc.StatusCode | None = at_once(inner.code())
        endpoint, plan = self.endpoint, self.work.plan
        endpoint.in_flight -= 1
        if self._timer is not None:
            self._timer.cancel()
        self.code = code = int(status.value[0]) if status is not None else outcome.UNKNOWN
        if code == outcome.OK:
            failed = False
        elif self.overdue:
            failed = True
            self.code = outcome.DEADLINE_EXCEEDED
            self.details = "its connection takes nothing"
            self.failure = Failure.SLOW if self.limited else None
        elif inner.cancelled():
            endpoint.breaker.release(self.permit)
            self._over(now)
            return
        else:
            failed = outcome.is_failure(code)
            self._explain(inner)
        if failed:
            endpoint.failures += 1
        seconds = now - self.began
        options = plan.breaker
        # How long a stream takes says nothing; how long it took to begin is not known here.
        slow = self.work.is_unary and seconds >= options.slow_call_seconds
        if self.permit:
            endpoint.breaker.record(self.permit, now, failed=failed, slow=slow)
        if plan.detector is not None and endpoint.outlier is not None:
            plan.detector.record(endpoint.outlier, now, failed=failed, seconds=seconds if self.work.is_unary else None)
        if plan.latencies and endpoint.latency is not None and self.work.is_unary:
            if failed:
                endpoint.latency.fail(seconds, now)
            else:
                endpoint.latency.observe(seconds, now)
        self._over(now)

    def _over(self, now: float) -> None:
        work, self.work = self.work, None
        # It does not hold on to its call, which is gone as soon as its caller has let go of it: grpc's calls hold on to
        # themselves, and wait for the garbage collector.
        work.attempt_over(self, now)

    def error(self) -> grpc.aio.AioRpcError | None:
        """Return what the caller is told in the place of grpc core's words; None where the instance has spoken."""
        who = f"instance {self.endpoint.instance.instance_id} of {self.endpoint.instance.service}"
        if self.failure is Failure.CONNECT:
            return refusal("upstream_connect_failed", self.code, f"{who} cannot be reached: {self.details}")
        if self.failure in (Failure.REFUSED, Failure.LOST):
            return refusal("upstream_reset", self.code, f"{who} went away during the call: {self.details}")
        if self.failure is Failure.SLOW:
            return refusal("deadline_exceeded", self.code, f"{who} took longer than an attempt may")
        if self.overdue:
            return refusal("deadline_exceeded", self.code, f"{who} did not answer in time: {self.details}")
        return None

    def cancelled(self) -> bool:
        """Tell whether its caller cancelled it."""
        return not self.overdue and bool(self.inner.cancelled())

    def pushback(self) -> bytes | None:
        """Return what the instance said of retries."""
        trailers = at_once(self.inner.trailing_metadata())
        return next((str(value).encode() for name, value in trailers or () if name == _PUSHBACK), None)

    def _explain(self, inner: Any) -> None:
        self.details = at_once(inner.details()) or ""
        failure = connection_failure(self.code, self.details)
        channel = self.endpoint.channel
        if failure is Failure.CONNECT and channel is not None:
            failure = None if channel.get_state() is grpc.ChannelConnectivity.READY else failure
        if self.code == outcome.DEADLINE_EXCEEDED and self.limited and self.work.time_left(_now()) != 0.0:
            failure = Failure.SLOW
        self.failure = failure
