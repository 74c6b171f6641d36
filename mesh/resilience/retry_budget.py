"""How many attempts may be repeated: a share of the calls, and some more, so that retries never multiply a load."""

from __future__ import annotations

from mesh.resilience.policy import RetryOptions

# Calls and retries are weighed against each other over this long, and forgotten a tenth of it at a time.
WINDOW_SECONDS = 10.0
_BUCKETS = 10
_SPAN = WINDOW_SECONDS / _BUCKETS


class RetryBudget:
    """The retries that the calls of one service may have.

    In the window that ends with any retry there are at most `share` x calls + `minimum` x 10 s of them. Costs the same
    however many calls there are.
    """

    __slots__ = ("_calls", "_calls_in", "_epoch", "_free", "_retries", "_retries_in", "_share", "granted", "refused")

    def __init__(self, options: RetryOptions) -> None:
        self.follow(options)
        self._epoch = 0
        self._calls = 0
        self._retries = 0
        self._calls_in = [0] * _BUCKETS
        self._retries_in = [0] * _BUCKETS
        # How often it said yes and no.
        self.granted = 0
        self.refused = 0

    def follow(self, options: RetryOptions) -> None:
        """Take other options into force; what was counted stays."""
        self._share = options.budget_share
        self._free = options.budget_minimum * WINDOW_SECONDS

    def deposit(self, now: float) -> None:
        """Count a call, not its retries, that began at `now` (monotonic seconds, never running backwards)."""
        epoch = int(now / _SPAN)
        if epoch != self._epoch:
            self._forget(epoch)
        self._calls_in[epoch % _BUCKETS] += 1
        self._calls += 1

    def withdraw(self, now: float) -> bool:
        """Tell whether one more retry may be made; a yes counts it."""
        epoch = int(now / _SPAN)
        if epoch != self._epoch:
            self._forget(epoch)
        if self._retries + 1 > self._share * self._calls + self._free:
            self.refused += 1
            return False
        self._retries_in[epoch % _BUCKETS] += 1
        self._retries += 1
        self.granted += 1
        return True

    def _forget(self, epoch: int) -> None:
        for passed in range(max(self._epoch + 1, epoch - _BUCKETS + 1), epoch + 1):
            slot = passed % _BUCKETS
            self._calls -= self._calls_in[slot]
            self._retries -= self._retries_in[slot]
            self._calls_in[slot] = self._retries_in[slot] = 0
        self._epoch = epoch
