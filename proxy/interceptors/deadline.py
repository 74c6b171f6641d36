"""The deadline: read from `grpc-timeout`, bounded where configured, never let past."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.clock import Clock
from mesh.options import require
from mesh.resilience.deadline import parse_timeout
from mesh.resilience.policy import TimeoutOptions
from proxy.call.call import Call
from proxy.call.interceptor import Interceptor
from proxy.call.reason import Reason, Reject

HEADER = b"grpc-timeout"


@dataclass(frozen=True, slots=True)
class DeadlineOptions:
    """Bounds on how long a call may take, in seconds. Unset means that only the client decides."""

    # Given to calls that come without a deadline. Long-lived streams come without one: mind them before setting it.
    default_seconds: float | None = None
    # Longer deadlines, and missing ones, are cut to this.
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        for name in ("default_seconds", "max_seconds"):
            value = getattr(self, name)
            require(value is None or value > 0, f"deadline.{name} must be above 0")


class Deadline(Interceptor):
    """Gives a call its deadline, and ends it before any work when that has passed."""

    name = "deadline"

    def __init__(self, clock: Clock, options: DeadlineOptions | TimeoutOptions) -> None:
        self._now = clock.now
        self._default = options.default_seconds
        self._max = options.max_seconds

    def on_request(self, call: Call) -> None:
        # An engine whose transport has read the header already sets the deadline itself.
        if call.deadline is None:
            self._from_header(call)
        if self._default is not None and call.deadline is None:
            call.deadline = call.started_at + self._default
        if self._max is not None:
            latest = call.started_at + self._max
            call.deadline = latest if call.deadline is None else min(latest, call.deadline)
        if call.deadline is not None and call.deadline <= self._now():
            raise Reject(Reason.DEADLINE_EXCEEDED, "the deadline passed before the call reached an upstream")

    def _from_header(self, call: Call) -> None:
        value = call.header(HEADER)
        if value is None:
            return
        seconds = parse_timeout(value)
        if seconds is None:
            raise Reject(Reason.MALFORMED_REQUEST, "grpc-timeout must be 1 to 8 digits and a unit (H, M, S, m, u or n)")
        call.deadline = call.started_at + seconds
