"""Which calls are copied to another service, and how much of that goes on at a time. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.edge.policy.document import MirrorRule
from mesh.resilience.breaker import BreakerState
from proxy.call.call import Call
from proxy.call.interceptor import Interceptor
from proxy.call.pipeline import Pipeline

if TYPE_CHECKING:
    from proxy.routing.table import MethodRoute
    from proxy.upstream.endpoint import Endpoint

# Said to the upstream of a copy, and found on calls that a copy has led to: those are not copied again.
MARK = b"mesh-mirror"
MARKED = b"1"

# What of one copy may lie in the edge because its upstream is slow; then it is given up.
MAX_BYTES = 256 * 1024
# How long a copy may go on after its call has ended.
LINGER_SECONDS = 10.0

_WHOLE = 100.0


class MirrorCounts:
    """What became of copies. Outlives the tables."""

    __slots__ = ("credit", "dropped", "failed", "in_flight", "sent", "service")

    def __init__(self, service: str) -> None:
        # Where the copies go.
        self.service = service
        # Percents that calls have brought and copies have not used.
        self.credit = 0.0
        self.in_flight = 0
        # Copies that began; of these, those that did not end well; and calls that should have been copied and were not.
        self.sent = 0
        self.failed = 0
        self.dropped = 0


class Mirror:
    """The copying of one route."""

    __slots__ = ("_max", "_percent", "counts", "where")

    def __init__(self, where: MethodRoute, rule: MirrorRule, counts: MirrorCounts) -> None:
        """Copy calls to `where`."""
        self.where = where
        self.counts = counts
        self._percent = rule.percent
        self._max = rule.max_in_flight

    def begin(self, call: Call) -> bool:
        """Tell whether this call is to be copied; `end` has to follow a yes."""
        counts = self.counts
        if call.header(MARK) is not None:
            return False
        counts.credit += self._percent
        if counts.credit < _WHOLE:
            return False
        counts.credit -= _WHOLE
        if counts.in_flight >= self._max:
            counts.dropped += 1
            return False
        counts.in_flight += 1
        counts.sent += 1
        return True

    def end(self, *, ok: bool) -> None:
        """Note that a copy is over."""
        self.counts.in_flight -= 1
        self.counts.failed += not ok


class _WellOnly(Interceptor):
    """Lets copies go where the breaker is closed, and leaves it alone: copies judge nobody, and are no probes."""

    name = "copies"

    def admits(self, call: Call, endpoint: Endpoint) -> bool:
        return endpoint.breaker.state is BreakerState.CLOSED


def _no_hooks(_call: Call, _error: BaseException) -> None:
    """Handle errors of hooks of the way out, which there are none of."""


# What a copy is picked an endpoint with.
GATE = Pipeline((_WellOnly(),), _no_hooks)
