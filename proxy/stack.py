"""THE place where the order of the edge's interceptors is written."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.clock import Clock
from mesh.resilience.breaker import BreakerOptions
from proxy.call.call import Call
from proxy.call.pipeline import HookError, Interceptor, Pipeline
from proxy.interceptors.access_log import AccessLog
from proxy.interceptors.breaker import CircuitBreaker
from proxy.interceptors.correlation import Correlation
from proxy.interceptors.deadline import Deadline, DeadlineOptions
from proxy.interceptors.metrics import Metrics


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
        observers: list[Interceptor | None] = [
            Correlation(),  # first: whatever happens next is told under this id
            self.access_log,  # before all that may refuse, so that refusals are in it
            self.metrics,  # likewise
        ]
        policies: list[Interceptor | None] = [
            Deadline(clock, options.deadline),  # before any work is done for a caller who has left
            CircuitBreaker(clock, options.breaker) if options.breaker.enabled else None,  # last: it asks per endpoint
        ]

        def pipeline(*parts: Interceptor | None) -> Pipeline:
            return Pipeline([part for part in parts if part is not None], on_error)

        # For calls that go to an upstream; for those that the edge answers itself, or that name no known service.
        self.routed = pipeline(*observers, *policies)
        self.local = pipeline(*observers)


def ignore_errors(_call: Call, _error: BaseException) -> None:
    """Handle errors of hooks by doing nothing; for tests and tools that have nowhere to tell."""
