"""The circuit breaker at the edge: one per service and endpoint, asked before each attempt."""

from __future__ import annotations

from mesh.clock import Clock
from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.outcome import is_failure
from proxy.call.call import Call
from proxy.call.interceptor import Interceptor
from proxy.call.reason import UPSTREAM_REASONS
from proxy.upstream.endpoint import Endpoint


class CircuitBreaker(Interceptor):
    """Keeps calls from endpoints that fail, and lets probes find out when they are well."""

    name = "breaker"

    def __init__(self, clock: Clock, options: BreakerOptions) -> None:
        self._now = clock.now
        self._slow = options.slow_call_seconds

    def admits(self, call: Call, endpoint: Endpoint) -> bool:
        call.permit = endpoint.breaker.acquire(self._now())
        return call.permit != 0

    def on_attempt_end(self, call: Call, endpoint: Endpoint) -> None:
        reason = call.reason
        if call.cancelled or (reason is not None and reason not in UPSTREAM_REASONS):
            endpoint.breaker.release(call.permit)
            return
        now = self._now()
        endpoint.breaker.record(call.permit, now, failed=is_failure(call.status), slow=self._was_slow(call, now))

    def _was_slow(self, call: Call, now: float) -> bool:
        """Judge the time from the end of the request to the start of the answer.

        The upstream is not to blame for a client that takes its time to send, nor is a long stream slow.
        """
        began = call.request_ended_at
        return began > 0 and (call.response_at or now) - began >= self._slow
