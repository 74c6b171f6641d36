"""One call of this process to another service: all but its messages. Every kind of call is made of this."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from mesh import correlation, tracing
from mesh.errors import MeshError
from mesh.resilience import outcome
from mesh.resilience.retry import PREVIOUS_ATTEMPTS, unnoticed
from mesh.sdk.attempt import Attempt
from mesh.sdk.otel import here
from mesh.sdk.refusal import Refused, nowhere
from mesh.telemetry.spans import CLIENT, INTERNAL

if TYPE_CHECKING:
    from mesh.sdk.channel import Method
    from mesh.sdk.endpoints import Endpoint

Pairs = tuple[tuple[str, str | bytes], ...]


class _Headers(tuple, grpc.aio.Metadata):  # type: ignore[type-arg,misc] # what they have in common is how they iterate
    """Metadata that is only read, once: grpc's own makes a mapping of lists out of it first."""

    __slots__ = ()

    def __init__(self, pairs: Pairs) -> None:
        """Be those pairs."""


CORRELATION, TRACEPARENT = correlation.HEADER.decode(), tracing.TRACEPARENT.decode()
_PREVIOUS = PREVIOUS_ATTEMPTS.decode()

_now = time.monotonic


class Work:
    """A call from its begin to its end."""

    is_unary = True

    __slots__ = (
        "_callbacks",
        "_parent",
        "_request",
        "attempts",
        "began",
        "correlation_id",
        "deadline",
        "error",
        "finished",
        "last",
        "metadata",
        "method",
        "now",
        "options",
        "permit",
        "plan",
        "sampled",
        "span_id",
        "trace_id",
        "tried",
        "upstream",
    )

    def __init__(self, method: Method, timeout: float | None, metadata: Any, options: dict[str, Any]) -> None:
        """Begin it; `options` are what grpc takes beside time-out and metadata."""
        self.method = method
        self.plan = plan = method.plan_now()
        self.options = options
        self.began = self.now = now = _now()
        self.tried: tuple[Endpoint, ...] = ()
        self.attempts = 0
        self.last: Attempt | None = None
        self.permit = 0
        self.finished = False
        # Why the caller gets no answer of an instance.
        self.error: grpc.aio.AioRpcError | None = None
        self._callbacks: list[Callable[[Any], None]] | None = None
        above = here()
        self.span_id = tracing.new_span_id().decode()
        if above is None:
            trace = tracing.new_trace_id()
            self.correlation_id = self.trace_id = trace.decode()
            self.sampled = method.client.spans.begins(trace)
            self._parent = ""
        else:
            self.correlation_id, self.trace_id, self.sampled = above.correlation_id, above.trace_id, above.sampled
            self._parent = above.span_id
        self.metadata: Sequence[Any] = ()
        if metadata:
            self._take(metadata)
        self.upstream = method.upstream
        if plan.ways is not None:
            self.take_way()
            plan = self.plan
        if timeout is None:
            timeout = plan.timeout.default_seconds
        elif timeout < 0:
            timeout = 0.0
        most = plan.timeout.max_seconds
        if most is not None and (timeout is None or timeout > most):
            timeout = most
        deadline = None if timeout is None else now + timeout
        if above is not None and above.deadline is not None and (deadline is None or above.deadline < deadline):
            deadline = above.deadline
        self.deadline: float | None = deadline
        method.stats.in_flight += 1
        self.upstream.in_flight += 1

    def take_way(self) -> None:
        """Go where the routes lead a call with such metadata, be it where it would go anyway."""
        ways = self.plan.ways
        way = ways.choose(self._received()) if ways is not None else None
        if way is not None:
            self.plan, self.upstream = way.plan, way.upstream

    def time_left(self, now: float) -> float | None:
        """Return the seconds until the caller stops waiting, None when it never does."""
        return None if self.deadline is None else max(0.0, self.deadline - now)

    def admit(self) -> None:
        """See to it that the call may be made at all; raises Refused."""
        plan = self.plan
        if plan.served is not None:
            have = ", ".join(plan.served)
            raise Refused(
                "no_route",
                outcome.UNIMPLEMENTED,
                f"{self.upstream.name} does not serve {self.method.name.partition('/')[0]}; it has {have}",
            )
        if self.deadline is not None and self.deadline <= self.now:
            raise Refused("deadline_exceeded", outcome.DEADLINE_EXCEEDED, "the deadline passed before the call began")
        if plan.most_in_flight is not None and self.upstream.in_flight > plan.most_in_flight:
            raise Refused(
                "overloaded",
                outcome.UNAVAILABLE,
                f"{self.upstream.name} has {plan.most_in_flight} calls of this process in flight, its limit",
            )
        if plan.limiter is not None:
            wait = plan.limiter.take(self._value(plan.limit_key), self.now)
            if wait:
                raise Refused(
                    "rate_limited",
                    outcome.RESOURCE_EXHAUSTED,
                    f"calls to {self.upstream.name} are over their rate limit: retry in {wait:.3f} s",
                )
        budget = self.upstream.budget
        if budget is not None:
            budget.deposit(self.now)

    def next_attempt(self, request: Any, *, again: bool = False) -> Attempt:
        """Begin an attempt; raises Refused when there is no endpoint for it.

        `again` says that one that was tried will do where there is no other.
        """
        self.now = now = _now()
        if self.attempts:
            # Much may have changed since the call began.
            plan = self.method.plan_now()
            self.plan = plan if plan.ways is None else self.plan
        targets = self.plan.targets
        key = self._value(targets.hash_key) if targets.hash_key else b""
        endpoint = targets.pick(key, self._admits, now)
        if endpoint is None and again and self.tried:
            tried, self.tried = self.tried, ()
            endpoint = targets.pick(key, self._admits, now)
            self.tried = tried
        if endpoint is None:
            raise nowhere(self.upstream, self.plan)
        left = None if self.deadline is None else max(0.0, self.deadline - now)
        per_try = self.plan.retry.per_try_seconds if self.plan.retry is not None and self.is_unary else None
        limited = per_try is not None and (left is None or per_try < left)
        attempt = Attempt(self, endpoint, self.permit, now, limited=limited)
        self.attempts += 1
        self.tried = (*self.tried, endpoint)
        self.last = attempt
        flag = "01" if self.sampled else "00"
        headers: Pairs = (
            *self.metadata,
            (CORRELATION, self.correlation_id),
            (TRACEPARENT, f"00-{self.trace_id}-{self.span_id}-{flag}"),
        )
        if self.attempts > 1:
            headers = (*headers, (_PREVIOUS, str(self.attempts - 1)))
        endpoint.in_flight += 1
        endpoint.calls += 1
        try:
            timeout = per_try if limited else left
            attempt.inner = inner = endpoint.callable(self.method)(
                request, timeout=timeout, metadata=_Headers(headers), **self.options
            )
        except Exception as error:
            endpoint.in_flight -= 1
            endpoint.breaker.release(self.permit)
            if isinstance(error, MeshError):  # TLS whose files are of no use
                raise Refused("upstream_connect_failed", outcome.UNAVAILABLE, str(error)) from error
            self.finish(outcome.INTERNAL, str(error))
            raise
        if timeout is not None and self.is_unary:
            attempt.bound(timeout)
        inner.add_done_callback(attempt.ended)
        return attempt

    def wait_before_next(self, attempt: Attempt, now: float, *, replayable: bool = True) -> float | None:
        """Return the seconds until another attempt, None when the one that ended is the call's answer."""
        if not replayable or attempt.code in (outcome.OK, outcome.CANCELLED):
            return None
        if unnoticed(attempt.failure, self.attempts) and len(self.plan.targets.willing) > 1:
            return 0.0
        retry = self.plan.retry
        if retry is None:
            return None
        return retry.wait(
            attempts=self.attempts,
            failure=attempt.failure,
            status=attempt.code,
            left=self.time_left(now),
            now=now,
            pushback=attempt.pushback(),
        )

    def attempt_over(self, attempt: Attempt, now: float) -> None:
        """Go on after an attempt."""
        raise NotImplementedError

    def refuse(self, refused: Refused) -> None:
        """End the call without an answer of an instance."""
        self.error = refused.error()
        self.finish(refused.code, refused.message)

    def finish(self, code: int, details: str = "") -> None:
        """End the call; only the first time counts."""
        if self.finished:
            return
        self.finished = True
        method = self.method
        seconds = _now() - self.began
        self.upstream.in_flight -= 1
        method.stats.ended(code, seconds)
        spans = method.client.spans
        if self.sampled or spans.keeps(sampled=False, code=code, seconds=seconds):
            self._note(code, details, seconds)
        if self._callbacks:
            for callback in self._callbacks:
                callback(self)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Go on with the call in a task, with whose end it ends if that comes first."""
        task = asyncio.get_running_loop().create_task(work)
        # One that is cancelled before it began does nothing at all.
        task.add_done_callback(lambda ended: self.finish(outcome.CANCELLED) if ended.cancelled() else None)
        return task

    def note_attempt(self, attempt: Attempt, now: float) -> None:
        """Note the span of one of several attempts: one that is the only one is the call's own span."""
        endpoint = attempt.endpoint
        spans = self.method.client.spans
        seconds = now - attempt.began
        if spans.keeps(sampled=self.sampled, code=attempt.code, seconds=seconds):
            spans.call(
                INTERNAL,
                self,
                tracing.new_span_id().decode(),
                self.span_id,
                self.method.name,
                time.time_ns() - int(seconds * 1e9),
                seconds,
                attempt.code,
                peer=self.upstream.name,
                message=attempt.details,
                attributes={"mesh.attempt": self.attempts, **endpoint.where},
            )

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have `callback` called with this call when it has ended."""
        if self.finished:
            callback(self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def _note(self, code: int, details: str, seconds: float) -> None:
        attributes: Mapping[str, Any] = {} if self.last is None else self.last.endpoint.where
        if self.attempts > 1:
            attributes = {"mesh.attempts": self.attempts, **attributes}
        self.method.client.spans.call(
            CLIENT,
            self,
            self.span_id,
            self._parent,
            self.method.name,
            time.time_ns() - int(seconds * 1e9),
            seconds,
            code,
            peer=self.upstream.name,
            message=details,
            attributes=attributes,
        )

    def _admits(self, endpoint: Endpoint) -> bool:
        if endpoint in self.tried or endpoint.left:
            return False
        if not self.plan.breaker.enabled:
            self.permit = 0
            return True
        self.permit = endpoint.breaker.acquire(self.now)
        return self.permit != 0

    def _take(self, metadata: Any) -> None:
        """Take the metadata of the caller; what it says of its conversation holds."""
        kept = []
        for pair in metadata:
            name, value = pair
            if name == CORRELATION and correlation.well_formed(value.encode() if isinstance(value, str) else value):
                self.correlation_id = value if isinstance(value, str) else value.decode()
            elif name != TRACEPARENT:
                kept.append((name, value))
        self.metadata = kept

    def _received(self) -> dict[bytes, bytes]:
        """Return the metadata as whoever is called will see it."""
        found = {
            name.encode(): value if isinstance(value, bytes) else value.encode("utf-8", "replace")
            for name, value in self.metadata
        }
        found[correlation.HEADER] = self.correlation_id.encode()
        return found

    def _value(self, name: str) -> bytes:
        """Return the value of metadata that is sent, the last one where there are several."""
        if name == CORRELATION:
            return self.correlation_id.encode()
        found = b""
        for key, value in self.metadata:
            if key == name:
                found = value.encode() if isinstance(value, str) else value
        return found
