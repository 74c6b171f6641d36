"""Which failed attempts are made again: those that nobody would notice, and those that a policy asks for."""

from __future__ import annotations

import enum
from collections.abc import Callable

from mesh.resilience.policy import CONNECT_FAILURE, REFUSED, RetryOptions
from mesh.resilience.retry_budget import RetryBudget
from proxy.call.call import Call

# An attempt that never left the edge is made again this often at most: enough to step over instances that died
# together, few enough that a call does not wander.
MAX_ATTEMPTS = 3

# What an upstream says of retries (gRPC's A6): in how many milliseconds; anything but a number from 0 on is never.
PUSHBACK = b"grpc-retry-pushback-ms"
# What it is told: how many attempts came before this one.
PREVIOUS_ATTEMPTS = b"grpc-previous-rpc-attempts"

# Longer than this the edge does not wait at an upstream's word: the client is told, and may.
MAX_PUSHBACK_SECONDS = 10.0
_DIGITS = 6


class Failure(enum.Enum):
    """How an attempt failed without an answer, by what the upstream may have seen of it."""

    # No connection: the upstream saw nothing.
    CONNECT = enum.auto()
    # The upstream said that it did not process the stream (REFUSED_STREAM, GOAWAY below its id).
    REFUSED = enum.auto()
    # Anything later: the upstream may have acted.
    LOST = enum.auto()
    # It took longer than the policy gives an attempt.
    SLOW = enum.auto()


def may_retry(call: Call, failure: Failure, *, replayable: bool) -> bool:
    """Tell whether a failed attempt may be followed at once by another one, whatever the policy is.

    `replayable` says that all that was read of the client's request is still at hand. After a begun response, or a
    failure in which the upstream may have acted, there is never another attempt: that takes a retry policy.
    """
    if failure not in (Failure.CONNECT, Failure.REFUSED) or not replayable or call.response_at:
        return False
    return call.attempts < (MAX_ATTEMPTS if failure is Failure.CONNECT else 2)


class Retries:
    """The retry policy of a route, with the budget that its service shares."""

    __slots__ = ("_base", "_codes", "_dice", "_max", "_on", "attempts", "budget", "per_try_seconds")

    def __init__(self, options: RetryOptions, budget: RetryBudget, dice: Callable[[], float]) -> None:
        self.attempts = options.attempts
        self.per_try_seconds = options.per_try_seconds
        self.budget = budget
        self._codes = options.codes
        self._on = options.on
        self._base = options.backoff_base_seconds
        self._max = options.backoff_max_seconds
        self._dice = dice

    def delay(
        self, call: Call, failure: Failure | None, now: float, *, replayable: bool, pushback: bytes | None = None
    ) -> float | None:
        """Return the seconds to wait before another attempt, None when the one that ended is the call's answer.

        Another attempt is counted, and the upstream will be told. `failure` is None where the upstream answered; then
        `call.status` is what it said, and `pushback` what it said of retries.
        """
        if not replayable or call.response_at or call.attempts >= self.attempts or not self._wanted(call, failure):
            return None
        seconds = self._backoff(call.attempts) if pushback is None else parse_pushback(pushback)
        left = call.time_left(now)
        if seconds is None or (left is not None and seconds >= left) or not self.budget.withdraw(now):
            return None
        call.send_upstream(PREVIOUS_ATTEMPTS, b"%d" % (call.attempts + _before(call)))
        return seconds

    def _wanted(self, call: Call, failure: Failure | None) -> bool:
        if failure is Failure.SLOW:
            return True
        if failure is Failure.CONNECT:
            return CONNECT_FAILURE in self._on
        if failure is Failure.REFUSED:
            return REFUSED in self._on
        return call.status in self._codes

    def _backoff(self, attempts: int) -> float:
        return min(self._base * 2.0 ** (attempts - 1), self._max) * self._dice()


def parse_pushback(value: bytes) -> float | None:
    """Return the seconds that an upstream asks to wait for; None when it wants no retry, or one in a long time."""
    if not value.isdigit() or len(value) > _DIGITS:
        return None
    seconds = int(value) / 1000
    return seconds if seconds <= MAX_PUSHBACK_SECONDS else None


def _before(call: Call) -> int:
    """Return how many attempts the client had made, by what it says."""
    said = call.header(PREVIOUS_ATTEMPTS)
    return int(said) if said is not None and said.isdigit() and len(said) <= _DIGITS else 0
