"""Which failed attempts a policy has made again, and when. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable

from mesh.resilience.policy import CONNECT_FAILURE, REFUSED, RetryOptions
from mesh.resilience.retry_budget import RetryBudget

# An attempt that never left its caller is made again this often at most, whatever the policy: enough to step over
# instances that died together, few enough that a call does not wander.
MAX_ATTEMPTS = 3

# What an upstream says of retries (gRPC's A6): in how many milliseconds; anything but a number from 0 on is never.
PUSHBACK = b"grpc-retry-pushback-ms"
# What it is told: how many attempts came before this one.
PREVIOUS_ATTEMPTS = b"grpc-previous-rpc-attempts"

# Longer than this nobody waits at an upstream's word: the client is told, and may.
MAX_PUSHBACK_SECONDS = 10.0
DIGITS = 6


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


def unnoticed(failure: Failure | None, attempts: int) -> bool:
    """Tell whether another attempt may follow at once, whatever the policy is: nobody has seen those before."""
    if failure is Failure.CONNECT:
        return attempts < MAX_ATTEMPTS
    return failure is Failure.REFUSED and attempts < 2


class RetryPolicy:
    """The retry options of a method, with the budget that its service shares."""

    def __init__(self, options: RetryOptions, budget: RetryBudget, dice: Callable[[], float]) -> None:
        """Make it; `dice` returns numbers from 0 to below 1."""
        self.attempts = options.attempts
        self.per_try_seconds = options.per_try_seconds
        self.budget = budget
        self.codes = options.codes
        self._on = options.on
        self._base = options.backoff_base_seconds
        self._max = options.backoff_max_seconds
        self._dice = dice

    def wait(
        self,
        *,
        attempts: int,
        failure: Failure | None,
        status: int,
        left: float | None,
        now: float,
        pushback: bytes | None,
    ) -> float | None:
        """Return the seconds to wait before another attempt, None when the one that ended is the call's answer.

        Another attempt is counted. `failure` is None where the upstream answered; then `status` is what it said, and
        `pushback` what it said of retries. `left` is the time until the caller stops waiting.
        """
        if attempts >= self.attempts or not self._wanted(failure, status):
            return None
        seconds = self._backoff(attempts) if pushback is None else parse_pushback(pushback)
        if seconds is None or (left is not None and seconds >= left) or not self.budget.withdraw(now):
            return None
        return seconds

    def _wanted(self, failure: Failure | None, status: int) -> bool:
        if failure is Failure.SLOW:
            return True
        if failure is Failure.CONNECT:
            return CONNECT_FAILURE in self._on
        if failure is Failure.REFUSED:
            return REFUSED in self._on
        return status in self.codes

    def _backoff(self, attempts: int) -> float:
        return min(self._base * 2.0 ** (attempts - 1), self._max) * self._dice()


def parse_pushback(value: bytes) -> float | None:
    """Return the seconds that an upstream asks to wait for; None when it wants no retry, or one in a long time."""
    if not value.isdigit() or len(value) > DIGITS:
        return None
    seconds = int(value) / 1000
    return seconds if seconds <= MAX_PUSHBACK_SECONDS else None
