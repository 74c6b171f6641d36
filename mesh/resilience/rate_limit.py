"""A rate limit: buckets of tokens by key, as many as are allowed and no more."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from mesh.resilience.policy import RateLimitOptions

# Longer keys are kept as digests: whoever chooses keys must not choose how much memory they take.
_LONG = 64
# How many buckets are looked at for a full one when there is no room.
_LOOKS = 8
# Seconds that sums of floating-point numbers may be off.
_SLACK = 1e-9


class RateLimiter:
    """Buckets of one limit.

    A bucket is one number, the time at which it will be full again (GCRA): it takes no timer, and a full one tells
    nothing and may be forgotten. Others never are: so nobody gets a new bucket by pushing the old one out with keys
    that are made up. When no bucket is full, new keys share one.
    """

    __slots__ = ("_depth", "_full_at", "_max_keys", "_shared_full_at", "_token", "granted", "refused")

    def __init__(self, options: RateLimitOptions) -> None:
        # Seconds that a token takes to come, and a whole bucket.
        self._token = 1.0 / options.per_second
        self._depth = options.tokens * self._token
        self._max_keys = options.max_keys
        self._full_at: OrderedDict[bytes, float] = OrderedDict()
        self._shared_full_at = 0.0
        self.granted = 0
        self.refused = 0

    def __len__(self) -> int:
        """Return how many buckets are kept."""
        return len(self._full_at)

    def take(self, key: bytes, now: float) -> float:
        """Take a token; returns 0 when there was one, else the seconds until there will be."""
        full_at = self._full_at
        if len(key) > _LONG:
            key = b"\0" + hashlib.blake2b(key, digest_size=16).digest()
        at = full_at.get(key)
        if at is None:
            at = now
            # Who had a token of the shared bucket gets none of his own before that one is full again.
            if self._shared_full_at > now or (len(full_at) >= self._max_keys and not self._make_room(now)):
                return self._take_shared(now)
        after = max(at, now) + self._token
        wait = after - now - self._depth
        if wait > _SLACK:
            self.refused += 1
            return wait
        full_at[key] = after
        self.granted += 1
        return 0.0

    def _take_shared(self, now: float) -> float:
        after = max(self._shared_full_at, now) + self._token
        wait = after - now - self._depth
        if wait > _SLACK:
            self.refused += 1
            return wait
        self._shared_full_at = after
        self.granted += 1
        return 0.0

    def _make_room(self, now: float) -> bool:
        """Forget a bucket that is full; those that are not go to the end of the line, so that all get looked at."""
        full_at = self._full_at
        for _ in range(min(_LOOKS, len(full_at))):
            key = next(iter(full_at))
            if full_at[key] <= now:
                del full_at[key]
                return True
            full_at.move_to_end(key)
        return False
