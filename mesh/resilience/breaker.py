"""The circuit breaker: stops calls to an endpoint that fails, and finds out by probes when it is well again.

closed --(too many failures or slow calls)--> open --(open_seconds later)--> half-open --(probes go well)--> closed
                                               ^------------(a share of the probes goes wrong)------'
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mesh.options import require
from mesh.resilience.window import SlidingWindow


class BreakerState(enum.IntEnum):
    """The numbers are those of the metric `mesh_edge_breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


# Above the numbers of all states.
_STEP = 4


def state_of(permit: int) -> int:
    """Return the number of the state, as it was then, of the breaker that gave a permit; a permit is not 0."""
    return permit % _STEP


@dataclass(frozen=True, slots=True)
class BreakerOptions:
    """When a breaker opens and how it heals."""

    # Whether endpoints that fail are left alone for a while.
    enabled: bool = True
    # Sliding window over which calls are judged, in seconds.
    window_seconds: float = 10.0
    # Below this many calls in the window nothing is concluded.
    minimum_calls: int = 20
    # Share of failed calls, above 0 and at most 1, at which it opens.
    failure_rate: float = 0.5
    # A call is slow when the upstream takes this long from the end of the request to the start of the response.
    slow_call_seconds: float = 10.0
    # Share of slow calls, above 0 and at most 1, at which it opens.
    slow_call_rate: float = 0.9
    # How long it stays open before probes are let through.
    open_seconds: float = 5.0
    # How many calls are let through half-open; their results decide.
    half_open_probes: int = 3

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: one of them makes no sense; the message names it.

        """
        for name in ("window_seconds", "slow_call_seconds", "open_seconds"):
            require(0 < getattr(self, name) <= 86400, f"breaker.{name} must be above 0 and at most 86400")
        for name in ("failure_rate", "slow_call_rate"):
            require(0 < getattr(self, name) <= 1, f"breaker.{name} must be above 0 and at most 1")
        for name in ("minimum_calls", "half_open_probes"):
            require(getattr(self, name) >= 1, f"breaker.{name} must be at least 1")


class Breaker:
    """One circuit breaker.

    Every admitted call gets a permit and gives it back exactly once, by `record` or `release`. A permit belongs to
    the stretch of one state: a call that began before the state changed says nothing about what came after.
    """

    __slots__ = ("_bad", "_done", "_given", "_period", "_since", "_slow", "options", "state", "window")

    def __init__(self, options: BreakerOptions) -> None:
        self.options = options
        self.state = BreakerState.CLOSED
        self.window = SlidingWindow(options.window_seconds)
        # Grows with each change of state, whose number is in its last bits; the permits of one stretch carry it.
        self._period = _STEP
        self._since = 0.0
        # Half-open: probes given out, answered, and how many of those failed or were slow.
        self._given = 0
        self._done = 0
        self._bad = 0
        self._slow = 0

    def follow(self, options: BreakerOptions) -> None:
        """Go on under other options.

        What it knows of the endpoint stays: an open breaker stays open, for as long as the new options say, and calls
        under way still count. Only a window of another length begins anew, and one that is switched off is closed.
        """
        before, self.options = self.options, options
        if options.window_seconds != before.window_seconds:
            self.window = SlidingWindow(options.window_seconds)
        if not options.enabled and self.state is not BreakerState.CLOSED:
            self._enter(BreakerState.CLOSED, self._since)

    def acquire(self, now: float) -> int:
        """Return a permit for one call, or 0 when the call must not be made."""
        if self.state is BreakerState.CLOSED:
            return self._period
        return self._acquire_probe(now)

    def record(self, permit: int, now: float, *, failed: bool, slow: bool) -> None:
        """Give a permit back with the outcome of its call."""
        if permit != self._period:
            return
        if self.state is BreakerState.CLOSED:
            window = self.window
            window.add(now, failed=failed, slow=slow)
            if (failed or slow) and self._too_bad(window.calls, window.failures, window.slow):
                self._enter(BreakerState.OPEN, now)
        elif self.state is BreakerState.HALF_OPEN:
            self._judge_probe(now, failed=failed, slow=slow)

    def release(self, permit: int) -> None:
        """Give a permit back without a verdict: the call was cancelled by its caller, or never made."""
        if permit == self._period and self.state is BreakerState.HALF_OPEN:
            self._given -= 1

    def age(self, seconds: float) -> None:
        """Be as if so much time had passed, for tests. Counts leave the window only when that is all of it."""
        self._since -= seconds
        if seconds >= self.options.window_seconds:
            self.window.clear()

    def retry_after(self, now: float) -> float:
        """Return the seconds until probes are let through: 0 unless it is open."""
        if self.state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self._since + self.options.open_seconds - now)

    def refuses(self, now: float) -> bool:
        """Tell whether `acquire` would refuse, without taking a permit."""
        if self.state is BreakerState.OPEN:
            return self.retry_after(now) > 0
        return self.state is BreakerState.HALF_OPEN and not self._may_probe(now)

    def _acquire_probe(self, now: float) -> int:
        if self.state is BreakerState.OPEN:
            if now - self._since < self.options.open_seconds:
                return 0
            self._enter(BreakerState.HALF_OPEN, now)
        elif not self._may_probe(now):
            return 0
        elif self._given >= self.options.half_open_probes:
            # The probes hang. Waiting for them for ever would keep a healthy endpoint out: ask again.
            self._enter(BreakerState.HALF_OPEN, now)
        self._given += 1
        return self._period

    def _may_probe(self, now: float) -> bool:
        return self._given < self.options.half_open_probes or now - self._since >= self.options.open_seconds

    def _judge_probe(self, now: float, *, failed: bool, slow: bool) -> None:
        self._done += 1
        self._bad += failed
        self._slow += slow
        probes, options = self.options.half_open_probes, self.options
        if self._bad >= options.failure_rate * probes or self._slow >= options.slow_call_rate * probes:
            self._enter(BreakerState.OPEN, now)
        elif self._done >= probes:
            self._enter(BreakerState.CLOSED, now)

    def _too_bad(self, calls: int, failures: int, slow: int) -> bool:
        options = self.options
        if calls < options.minimum_calls:
            return False
        return failures >= options.failure_rate * calls or slow >= options.slow_call_rate * calls

    def _enter(self, state: BreakerState, now: float) -> None:
        self.state = state
        self._period = (self._period // _STEP + 1) * _STEP + state
        self._since = now
        self._given = self._done = self._bad = self._slow = 0
        if state is not BreakerState.OPEN:  # an open breaker still shows what opened it
            self.window.clear()
