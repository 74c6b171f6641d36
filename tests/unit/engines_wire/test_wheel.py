from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.engines.wire.wheel import TICK_SECONDS, Wheel


@settings(deadline=None)
@given(st.lists(st.floats(0, 1000)), st.lists(st.floats(0, 10), max_size=30))
def test_nothing_is_early_and_nothing_is_late_by_more_than_a_tick(due: list[float], steps: list[float]) -> None:
    wheel: Wheel[int] = Wheel()
    for item, when in enumerate(due):
        wheel.add(item, when)
    now, left = 0.0, set(range(len(due)))
    for step in (*steps, 2000.0):
        now += step
        for item in wheel.expire(now):
            assert due[item] <= now
            left.remove(item)
        assert all(due[item] > now - TICK_SECONDS - 1e-9 for item in left)
    assert not left
    assert not wheel


def test_what_is_discarded_does_not_come() -> None:
    wheel: Wheel[str] = Wheel()
    wheel.add("gone", 1.0).discard("gone")
    wheel.add("stays", 1.0)
    assert wheel.expire(2.0) == ["stays"]


def test_what_is_due_already_comes_next() -> None:
    wheel: Wheel[str] = Wheel()
    wheel.expire(10.0)
    wheel.add("late", 3.0)
    assert wheel.expire(10.0 + 2 * TICK_SECONDS) == ["late"]
