"""THE place where the order of the edge's interceptors is written."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.clock import Clock
from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.policy import RoutePolicy, TimeoutOptions
from proxy.call.call import Call
from proxy.call.pipeline import HookError, Interceptor, Pipeline
from proxy.interceptors.access_log import AccessLog
from proxy.interceptors.breaker import CircuitBreaker
from proxy.interceptors.correlation import Correlation
from proxy.interceptors.deadline import Deadline, DeadlineOptions
from proxy.interceptors.gate import Gate, Room
from proxy.interceptors.metrics import Metrics
from proxy.upstream.plan import Kept, Plan


@dataclass(frozen=True, slots=True)
class StackOptions:
    """The options of the interceptors."""

    breaker: BreakerOptions = field(default_factory=BreakerOptions)
    deadline: DeadlineOptions = field(default_factory=DeadlineOptions)
    access_log: bool = True


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
            self.access_log,  # before all that may refuse, so that refusals are in it
            self.metrics,  # likewise
        ]
        # For calls that go to an upstream; for those that the edge answers itself, or that name no known service.
        self.routed = self._routed(options.deadline, options.breaker)
        self.local = self._pipeline()

    def plan(self, service: str, policy: RoutePolicy, whole: RoutePolicy, kept: Kept) -> Plan:
        """Return what a policy comes to; see `proxy.upstream.plan.PlanMaker`."""
        options, gate = self._options, None
        if policy.limits is not None and policy.limits.max_calls_in_flight is not None:
            whose = policy.limits_name
            room = kept.get(Room, service, "room", whose)
            gate = Gate(room, policy.limits.max_calls_in_flight, f"{service} ({whose})" if whose else service)
        pipeline = self._routed(
            policy.timeout or options.deadline, policy.breaker or whole.breaker or options.breaker, gate
        )
        return Plan(policy, pipeline)

    def _routed(
        self, timeout: DeadlineOptions | TimeoutOptions, breaker: BreakerOptions, gate: Gate | None = None
    ) -> Pipeline:
        return self._pipeline(
            gate,  # before all that may refuse: it counts every call out again
            Deadline(self._clock, timeout),  # before any work is done for a caller who has left
            CircuitBreaker(self._clock, breaker) if breaker.enabled else None,  # last: it asks per endpoint
        )

    def _pipeline(self, *policies: Interceptor | None) -> Pipeline:
        return Pipeline([part for part in (*self._observers, *policies) if part is not None], self._on_error)


def ignore_errors(_call: Call, _error: BaseException) -> None:
    """Handle errors of hooks by doing nothing; for tests and tools that have nowhere to tell."""
