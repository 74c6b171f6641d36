"""A sliding window over time that counts calls, failures and slow calls."""

from __future__ import annotations


class SlidingWindow:
    """Counts over the last `seconds`, forgotten one bucket at a time.

    Costs the same however many calls it holds: totals are kept as buckets come and go. Counts of the oldest bucket
    leave together, so the window is `seconds` long give or take one bucket.
    """

    __slots__ = ("_buckets", "_epoch", "_span", "calls", "failures", "slow")

    def __init__(self, seconds: float, buckets: int = 10) -> None:
        self._span = seconds / buckets
        self._buckets = [[0, 0, 0] for _ in range(buckets)]
        self._epoch = 0
        self.calls = 0
        self.failures = 0
        self.slow = 0

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count one call that ended at `now` (monotonic seconds, never running backwards)."""
        epoch = int(now / self._span)
        if epoch != self._epoch:
            self._forget(epoch)
        bucket = self._buckets[epoch % len(self._buckets)]
        bucket[0] += 1
        self.calls += 1
        if failed:
            bucket[1] += 1
            self.failures += 1
        if slow:
            bucket[2] += 1
            self.slow += 1

    def advance(self, now: float) -> None:
        """Forget what is older than the window at `now`."""
        epoch = int(now / self._span)
        if epoch != self._epoch:
            self._forget(epoch)

    def clear(self) -> None:
        """Forget everything."""
        for bucket in self._buckets:
            bucket[:] = (0, 0, 0)
        self.calls = self.failures = self.slow = 0

    def _forget(self, epoch: int) -> None:
        size = len(self._buckets)
        for passed in range(max(self._epoch + 1, epoch - size + 1), epoch + 1):
            bucket = self._buckets[passed % size]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow -= bucket[2]
            bucket[:] = (0, 0, 0)
        self._epoch = epoch
