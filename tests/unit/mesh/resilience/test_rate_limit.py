from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.resilience.policy import RateLimitOptions
from mesh.resilience.rate_limit import RateLimiter
from mesh.testing import ManualClock


@given(
    st.floats(0.1, 1000),
    st.integers(1, 20),
    st.integers(1, 4),
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 9), st.integers(1, 12)), max_size=30),
)
def test_no_key_ever_gets_more_than_rate_and_burst(
    rate: float, burst: int, max_keys: int, steps: list[tuple[float, int, int]]
) -> None:
    """Over any stretch of time, though there are more keys than buckets."""
    clock = ManualClock()
    limiter = RateLimiter(RateLimitOptions(rate, burst, "peer", max_keys=max_keys))
    granted: defaultdict[bytes, list[float]] = defaultdict(list)
    for seconds, number, times in steps:
        clock.advance(seconds)
        for _ in range(times):
            if limiter.take(b"%d" % number, clock.now()) == 0:
                granted[b"%d" % number].append(clock.now())
    assert len(limiter) <= max_keys
    for taken in granted.values():
        for first, start in enumerate(taken):
            for last in range(first, len(taken)):
                allowed = rate * (taken[last] - start) + burst
                assert last - first + 1 <= allowed * (1 + 1e-5) + 1e-5


def test_what_is_allowed_is_given_and_the_wait_is_told() -> None:
    clock = ManualClock()
    limiter = RateLimiter(RateLimitOptions(10, burst=5))
    assert [limiter.take(b"", clock.now()) for _ in range(5)] == [0] * 5
    wait = limiter.take(b"", clock.now())
    assert wait == pytest.approx(0.1, rel=1e-3)
    clock.advance(wait)
    assert limiter.take(b"", clock.now()) == 0
    assert limiter.take(b"", clock.now()) > 0
    clock.advance(3600)
    assert [limiter.take(b"", clock.now()) == 0 for _ in range(6)] == [True] * 5 + [False]
    assert (limiter.granted, limiter.refused) == (11, 3)


def test_made_up_keys_do_not_push_an_empty_bucket_out() -> None:
    clock = ManualClock()
    limiter = RateLimiter(RateLimitOptions(1, burst=1, key="peer", max_keys=100))
    assert limiter.take(b"mine", clock.now()) == 0
    through = sum(limiter.take(b"%d" % number, clock.now()) == 0 for number in range(10_000))
    assert through == 100, "99 buckets, and one that all others share"
    assert limiter.take(b"mine", clock.now()) > 0
    assert len(limiter) == 100
    clock.advance(2)
    assert all(limiter.take(b"new-%d" % number, clock.now()) == 0 for number in range(100))
    assert len(limiter) <= 100


def test_long_keys_take_no_more_memory_than_short_ones() -> None:
    clock = ManualClock()
    limiter = RateLimiter(RateLimitOptions(1, burst=1, key="peer"))
    assert limiter.take(b"a" * 100_000, clock.now()) == 0
    assert limiter.take(b"a" * 100_000, clock.now()) > 0
    assert limiter.take(b"a" * 99_999, clock.now()) == 0
    assert max(map(len, limiter._full_at)) < 64
