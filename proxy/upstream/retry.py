"""Which failed attempts are made again: those that nobody would notice, and those that a policy asks for."""

from __future__ import annotations

from mesh.resilience.retry import (
    DIGITS,
    MAX_ATTEMPTS,
    MAX_PUSHBACK_SECONDS,
    PREVIOUS_ATTEMPTS,
    PUSHBACK,
    Failure,
    RetryPolicy,
    parse_pushback,
    unnoticed,
)
from proxy.call.call import Call

__all__ = [
    "MAX_ATTEMPTS",
    "MAX_PUSHBACK_SECONDS",
    "PREVIOUS_ATTEMPTS",
    "PUSHBACK",
    "Failure",
    "Retries",
    "may_retry",
    "parse_pushback",
]


def may_retry(call: Call, failure: Failure, *, replayable: bool) -> bool:
    """Tell whether a failed attempt may be followed at once by another one, whatever the policy is.

    `replayable` says that all that was read of the client's request is still at hand. After a begun response, or a
    failure in which the upstream may have acted, there is never another attempt: that takes a retry policy.
    """
    return replayable and not call.response_at and unnoticed(failure, call.attempts)


class Retries(RetryPolicy):
    """The retry policy of a route, with the budget that its service shares."""

    def delay(
        self, call: Call, failure: Failure | None, now: float, *, replayable: bool, pushback: bytes | None = None
    ) -> float | None:
        """Return the seconds to wait before another attempt, None when the one that ended is the call's answer.

        Another attempt is counted, and the upstream will be told. `failure` is None where the upstream answered; then
        `call.status` is what it said, and `pushback` what it said of retries.
        """
        if not replayable or call.response_at:
            return None
        seconds = self.wait(
            attempts=call.attempts,
            failure=failure,
            status=call.status,
            left=call.time_left(now),
            now=now,
            pushback=pushback,
        )
        if seconds is not None:
            call.send_upstream(PREVIOUS_ATTEMPTS, b"%d" % (call.attempts + _before(call)))
        return seconds


def _before(call: Call) -> int:
    """Return how many attempts the client had made, by what it says."""
    said = call.header(PREVIOUS_ATTEMPTS)
    return int(said) if said is not None and said.isdigit() and len(said) <= DIGITS else 0
