from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import UsageError
from mesh.resilience.breaker import Breaker, BreakerOptions, BreakerState
from mesh.testing import ManualClock

OPTIONS = BreakerOptions(
    window_seconds=10, minimum_calls=4, failure_rate=0.5, slow_call_rate=0.75, open_seconds=5, half_open_probes=2
)


def call(breaker: Breaker, clock: ManualClock, *, failed: bool = False, slow: bool = False) -> bool:
    """Make one call; returns whether it was admitted."""
    permit = breaker.acquire(clock.now())
    if permit:
        breaker.record(permit, clock.now(), failed=failed, slow=slow)
    return permit != 0


def state(breaker: Breaker) -> BreakerState:
    """Return the state; asked by a function, mypy does not take it for settled."""
    return breaker.state


def opened(clock: ManualClock) -> Breaker:
    breaker = Breaker(OPTIONS)
    for _ in range(OPTIONS.minimum_calls):
        assert call(breaker, clock, failed=True)
    assert state(breaker) is BreakerState.OPEN
    return breaker


def test_opens_at_the_failure_rate_and_not_before_the_minimum() -> None:
    clock, breaker = ManualClock(), Breaker(OPTIONS)
    for failed in (True, True, False):
        call(breaker, clock, failed=failed)
    assert state(breaker) is BreakerState.CLOSED  # three calls: below the minimum
    call(breaker, clock, failed=True)
    assert state(breaker) is BreakerState.OPEN


def test_stays_closed_below_the_rate() -> None:
    clock, breaker = ManualClock(), Breaker(OPTIONS)
    for number in range(100):
        call(breaker, clock, failed=number % 3 == 2)
    assert state(breaker) is BreakerState.CLOSED


def test_opens_on_slow_calls() -> None:
    clock, breaker = ManualClock(), Breaker(OPTIONS)
    for slow in (False, True, True):
        call(breaker, clock, slow=slow)
    assert state(breaker) is BreakerState.CLOSED
    call(breaker, clock, slow=True)
    assert state(breaker) is BreakerState.OPEN


def test_old_failures_are_forgotten() -> None:
    clock, breaker = ManualClock(), Breaker(OPTIONS)
    for _ in range(3):
        call(breaker, clock, failed=True)
    clock.advance(OPTIONS.window_seconds + 1)
    call(breaker, clock, failed=True)
    assert state(breaker) is BreakerState.CLOSED
    assert breaker.window.calls == 1


def test_open_refuses_until_its_time_then_probes_heal_it() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    assert not call(breaker, clock)
    assert breaker.retry_after(clock.now()) == OPTIONS.open_seconds
    clock.advance(OPTIONS.open_seconds - 0.001)
    assert not call(breaker, clock)
    clock.advance(0.001)
    assert call(breaker, clock)
    assert state(breaker) is BreakerState.HALF_OPEN
    assert call(breaker, clock)
    assert state(breaker) is BreakerState.CLOSED
    assert breaker.window.calls == 0  # what opened it is history


def test_a_failed_probe_opens_it_again() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    clock.advance(OPTIONS.open_seconds)
    call(breaker, clock, failed=True)
    assert state(breaker) is BreakerState.OPEN
    assert breaker.retry_after(clock.now()) == OPTIONS.open_seconds


def test_half_open_lets_only_the_probes_through() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    clock.advance(OPTIONS.open_seconds)
    permits = [breaker.acquire(clock.now()) for _ in range(5)]
    assert [bool(permit) for permit in permits] == [True, True, False, False, False]
    assert breaker.refuses(clock.now())


def test_a_cancelled_probe_makes_room_for_another() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    clock.advance(OPTIONS.open_seconds)
    first, _second = breaker.acquire(clock.now()), breaker.acquire(clock.now())
    assert not breaker.acquire(clock.now())
    breaker.release(first)
    assert breaker.acquire(clock.now())


def test_probes_that_hang_do_not_keep_it_half_open_for_ever() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    clock.advance(OPTIONS.open_seconds)
    hanging = [breaker.acquire(clock.now()) for _ in range(2)]
    clock.advance(OPTIONS.open_seconds)
    assert call(breaker, clock)
    assert call(breaker, clock)
    assert state(breaker) is BreakerState.CLOSED
    for permit in hanging:  # their late failure is of another time
        breaker.record(permit, clock.now(), failed=True, slow=True)
    assert breaker.window.calls == 0


def test_calls_of_an_earlier_state_do_not_count() -> None:
    clock = ManualClock()
    breaker = Breaker(OPTIONS)
    early = breaker.acquire(clock.now())
    for _ in range(4):
        call(breaker, clock, failed=True)
    clock.advance(OPTIONS.open_seconds)
    assert call(breaker, clock)
    breaker.record(early, clock.now(), failed=True, slow=False)
    assert state(breaker) is BreakerState.HALF_OPEN


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["start", "ok", "fail", "slow", "cancel"]),
            st.floats(0, 7, allow_nan=False),
        ),
        max_size=200,
    )
)
def test_whatever_happens_the_books_are_right(steps: list[tuple[str, float]]) -> None:
    """Never more probes out than allowed, an open breaker admits nothing, and it always heals."""
    clock, breaker = ManualClock(), Breaker(OPTIONS)
    out: list[int] = []
    for action, wait in steps:
        clock.advance(wait)
        if action == "start":
            was, left = breaker.state, breaker.retry_after(clock.now())
            permit = breaker.acquire(clock.now())
            if was is BreakerState.OPEN:
                assert bool(permit) == (left == 0)
            if permit:
                out.append(permit)
            if state(breaker) is BreakerState.HALF_OPEN:
                assert out.count(max(out)) <= OPTIONS.half_open_probes
        elif out:
            permit = out.pop(0)
            if action == "cancel":
                breaker.release(permit)
            else:
                breaker.record(permit, clock.now(), failed=action == "fail", slow=action == "slow")
        window = breaker.window
        assert 0 <= window.failures <= window.calls
        assert 0 <= window.slow <= window.calls
    for _ in range(3):
        clock.advance(OPTIONS.open_seconds)
        for _ in range(OPTIONS.half_open_probes):
            call(breaker, clock)
    assert state(breaker) is BreakerState.CLOSED


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans(), st.booleans()), max_size=300))
def test_the_window_counts_what_a_plain_list_counts(calls: list[tuple[float, bool, bool]]) -> None:
    clock, breaker = ManualClock(), Breaker(BreakerOptions(minimum_calls=10**9, window_seconds=10))
    seen: list[tuple[int, bool, bool]] = []
    for wait, failed, slow in calls:
        clock.advance(wait)
        call(breaker, clock, failed=failed, slow=slow)
        epoch = int(clock.now())  # ten buckets of one second
        seen.append((epoch, failed, slow))
        live = [one for one in seen if one[0] > epoch - 10]
        window = breaker.window
        assert (window.calls, window.failures, window.slow) == (
            len(live),
            sum(one[1] for one in live),
            sum(one[2] for one in live),
        )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"failure_rate": 0.0}, "failure_rate"),
        ({"slow_call_rate": 1.1}, "slow_call_rate"),
        ({"window_seconds": -1}, "window_seconds"),
        ({"open_seconds": 0}, "open_seconds"),
        ({"minimum_calls": 0}, "minimum_calls"),
        ({"half_open_probes": 0}, "half_open_probes"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, float], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        BreakerOptions(**options)  # type: ignore[arg-type]


def _name(breaker: Breaker) -> str:
    return breaker.state.name


def test_other_options_keep_what_is_known() -> None:
    breaker = Breaker(BreakerOptions(minimum_calls=2, open_seconds=5))
    permit = breaker.acquire(0)
    breaker.record(permit, 0, failed=True, slow=False)
    breaker.follow(BreakerOptions(minimum_calls=2, open_seconds=60))
    breaker.record(permit, 0, failed=True, slow=False)
    assert _name(breaker) == "OPEN", "a permit from before still counts, and so does what it told"
    assert breaker.acquire(6) == 0, "it stays open for as long as the new options say"
    breaker.follow(BreakerOptions(minimum_calls=2, open_seconds=5, window_seconds=1))
    assert _name(breaker) == "OPEN"
    breaker.follow(BreakerOptions(enabled=False))
    assert _name(breaker) == "CLOSED"
    assert breaker.window.calls == 0


def test_time_can_be_made_to_pass() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    breaker.age(OPTIONS.open_seconds)
    assert call(breaker, clock)
    counting = Breaker(OPTIONS)
    for failed in (True, True, False):
        call(counting, clock, failed=failed)
    counting.age(OPTIONS.window_seconds)
    call(counting, clock, failed=True)
    assert state(counting) is BreakerState.CLOSED
