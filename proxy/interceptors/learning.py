"""What policies learn from the calls of their route: the budget of retries, latencies, and who is an outlier."""

from __future__ import annotations

from mesh.clock import Clock
from mesh.resilience.outcome import is_failure
from mesh.resilience.outlier import OutlierDetector
from mesh.resilience.retry_budget import RetryBudget
from proxy.call.call import Call
from proxy.call.interceptor import Interceptor
from proxy.call.reason import UPSTREAM_REASONS
from proxy.upstream.endpoint import Endpoint


class Budget(Interceptor):
    """Counts calls, of which a share may be made again."""

    name = "retry_budget"

    def __init__(self, clock: Clock, budget: RetryBudget) -> None:
        self._now = clock.now
        self._deposit = budget.deposit

    def on_request(self, call: Call) -> None:
        self._deposit(self._now())


class Latencies(Interceptor):
    """Learns how long endpoints take, for the balancer peak_ewma."""

    name = "latencies"

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now

    def on_attempt_end(self, call: Call, endpoint: Endpoint) -> None:
        latency = endpoint.latency
        if latency is None or not says_something(call):
            return
        now = self._now()
        seconds = answer_seconds(call, now)
        if is_failure(call.status):
            latency.fail(seconds or 0.0, now)
        elif seconds is not None:
            latency.observe(seconds, now)


class Outliers(Interceptor):
    """Tells the detector how attempts end."""

    name = "outliers"

    def __init__(self, clock: Clock, detector: OutlierDetector) -> None:
        self._now = clock.now
        self._record = detector.record

    def on_attempt_end(self, call: Call, endpoint: Endpoint) -> None:
        host = endpoint.outlier
        if host is not None and says_something(call):
            now = self._now()
            self._record(host, now, failed=is_failure(call.status), seconds=answer_seconds(call, now))


def says_something(call: Call) -> bool:
    """Tell whether the end of an attempt is the endpoint's doing, and not the client's or the edge's."""
    return not call.cancelled and (call.reason is None or call.reason in UPSTREAM_REASONS)


def answer_seconds(call: Call, now: float) -> float | None:
    """Return how long the answer took to begin, from the attempt's begin or the request's end, whichever was later.

    None where that cannot be told: the upstream is not to blame for a client that takes its time to send.
    """
    began = max(call.request_ended_at, call.attempt_at)
    return max(0.0, (call.response_at or now) - began) if call.request_ended_at else None
