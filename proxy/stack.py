"""THE place where the order of the edge's interceptors is written."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mesh.clock import Clock
from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.outlier import OutlierDetector
from mesh.resilience.policy import PEAK_EWMA, ROUND_ROBIN, RateLimitOptions, RoutePolicy, TimeoutOptions
from mesh.resilience.rate_limit import RateLimiter
from mesh.resilience.retry_budget import RetryBudget
from mesh.telemetry.sampling import TracingOptions
from proxy.call.call import Call
from proxy.call.interceptor import Interceptor
from proxy.call.pipeline import HookError, Pipeline
from proxy.interceptors.access_log import AccessLog
from proxy.interceptors.breaker import CircuitBreaker
from proxy.interceptors.correlation import Correlation
from proxy.interceptors.deadline import Deadline, DeadlineOptions
from proxy.interceptors.gate import Gate, Room
from proxy.interceptors.learning import Budget, Latencies, Outliers
from proxy.interceptors.metrics import Metrics
from proxy.interceptors.rate_limit import RateLimit
from proxy.interceptors.tracing import Tracing
from proxy.upstream.balanced import Balancing
from proxy.upstream.plan import Kept, Plan
from proxy.upstream.retry import Retries

Parts: TypeAlias = Sequence[Interceptor | None]


@dataclass(frozen=True, slots=True)
class StackOptions:
    """The options of the interceptors."""

    breaker: BreakerOptions = field(default_factory=BreakerOptions)
    deadline: DeadlineOptions = field(default_factory=DeadlineOptions)
    access_log: bool = True
    # None: no call is traced, and none pays for it.
    tracing: TracingOptions | None = None


class Stack:
    """The interceptors of one edge, and the pipelines made of them."""

    def __init__(self, clock: Clock, options: StackOptions, on_error: HookError) -> None:
        self.metrics = Metrics()
        self.access_log = AccessLog(clock) if options.access_log else None
        self._clock = clock
        self._options = options
        self._on_error = on_error
        # What every call passes, whatever becomes of it.
        self._observers: list[Interceptor | None] = [
            Correlation(),  # first: whatever happens next is told under this id
            Tracing(clock, options.tracing) if options.tracing is not None else None,  # next: a trace may get that id
            self.access_log,  # before all that may refuse, so that refusals are in it
            self.metrics,  # likewise
        ]
        # For calls that go to an upstream; for those that the edge answers itself, or that name no known service.
        self.routed = self._routed(options.deadline, options.breaker)
        self.local = self._pipeline()

    def plan(self, service: str, policy: RoutePolicy, whole: RoutePolicy, kept: Kept) -> Plan:
        """Return what a policy comes to; see `proxy.upstream.plan.PlanMaker`."""
        options, clock, gate = self._options, self._clock, None
        if policy.limits is not None and policy.limits.max_calls_in_flight is not None:
            whose = policy.limits_name
            room = kept.get(Room, service, "room", whose)
            gate = Gate(room, policy.limits.max_calls_in_flight, f"{service} ({whose})" if whose else service)
        limit, detector = policy.rate_limit, self._detector(service, policy, whole, kept)
        budget = self._budget(service, policy, whole, kept)
        pipeline = self._routed(
            policy.timeout or options.deadline,
            policy.breaker or whole.breaker or options.breaker,
            gate=gate,
            admission=(
                # After the deadline: whoever has left takes no token. Before the budget: what is refused is no call.
                _rate_limit(clock, limit, service, policy.name, kept) if limit is not None else None,
                Budget(clock, budget) if budget is not None else None,
            ),
            judges=(
                # They only look at the ends of attempts, each by itself: any order is right.
                Latencies(clock) if policy.balancer.kind == PEAK_EWMA else None,
                Outliers(clock, detector) if detector is not None else None,
            ),
        )
        retries = balancing = None
        if policy.retry is not None and budget is not None:
            retries = Retries(policy.retry, budget, random.random)
        if policy.balancer.kind != ROUND_ROBIN or detector is not None:
            balancing = Balancing(policy.balancer, detector, clock.now, random.random)
        return Plan(policy, pipeline, retries, balancing)

    def _routed(
        self,
        timeout: DeadlineOptions | TimeoutOptions,
        breaker: BreakerOptions,
        *,
        gate: Gate | None = None,
        admission: Parts = (),
        judges: Parts = (),
    ) -> Pipeline:
        return self._pipeline(
            gate,  # before all that may refuse: it counts every call out again
            Deadline(self._clock, timeout),  # before any work is done for a caller who has left
            *admission,
            *judges,
            CircuitBreaker(self._clock, breaker) if breaker.enabled else None,  # last: it asks per endpoint
        )

    def _detector(self, service: str, policy: RoutePolicy, whole: RoutePolicy, kept: Kept) -> OutlierDetector | None:
        """Return what compares the endpoints of a service: one for all of its routes, as its endpoints are."""
        options = whole.outlier or policy.outlier
        if policy.outlier is None or options is None:
            return None
        detector = kept.get(lambda: OutlierDetector(options, self._clock.now()), service, "outliers")
        detector.options = options
        return detector

    def _budget(self, service: str, policy: RoutePolicy, whole: RoutePolicy, kept: Kept) -> RetryBudget | None:
        """Return the budget of a service: one for all of its routes, as they load the same endpoints."""
        options = whole.retry or policy.retry
        if policy.retry is None or options is None:
            return None
        budget = kept.get(lambda: RetryBudget(options), service, "retries")
        budget.follow(options)
        return budget

    def _pipeline(self, *policies: Interceptor | None) -> Pipeline:
        return Pipeline([part for part in (*self._observers, *policies) if part is not None], self._on_error)


def _rate_limit(clock: Clock, options: RateLimitOptions, service: str, name: str, kept: Kept) -> RateLimit:
    """Return a limit; its buckets are as full as they were before a change of something else."""
    limiter = kept.get(lambda: RateLimiter(options), service, "rate", name, options)
    return RateLimit(clock, options, limiter, service)


def ignore_errors(_call: Call, _error: BaseException) -> None:
    """Handle errors of hooks by doing nothing; for tests and tools that have nowhere to tell."""
