from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mesh.resilience.balancer import MAX_SCHEDULE, schedule


def test_equal_weights_take_turns_in_order() -> None:
    assert schedule("abc", [100, 100, 100]) == ("a", "b", "c")


def test_weight_zero_is_left_out() -> None:
    assert schedule("ab", [0, 5]) == ("b",)
    assert schedule("ab", [0, 0]) == ()


def test_turns_are_spread() -> None:
    turns = schedule("ab", [3, 1])
    assert Counter(turns) == {"a": 3, "b": 1}
    assert "aaa" not in "".join(turns)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40))
def test_shares_follow_the_weights(weights: list[int]) -> None:
    turns = Counter(schedule(range(len(weights)), weights))
    total, size = sum(weights), sum(turns.values())
    assert size <= max(MAX_SCHEDULE, total) + len(weights)
    for index, weight in enumerate(weights):
        if weight == 0:
            assert index not in turns
        else:
            # Rounded to the schedule's length, and never to nothing.
            assert turns[index] >= 1
            assert abs(turns[index] - weight / total * size) <= 2 + 0.05 * size


def test_a_service_of_thousands_is_scheduled_at_once() -> None:
    assert schedule(range(20_000), [7] * 20_000) == tuple(range(20_000))


@given(st.lists(st.integers(1, 9), min_size=200, max_size=250))
def test_a_long_schedule_is_spread_evenly(weights: list[int]) -> None:
    turns = schedule(range(len(weights)), weights)
    counts = Counter(turns)
    size = len(turns)
    for index in counts:
        # Of two halves neither has much more of one item than the other.
        first = sum(turn == index for turn in turns[: size // 2])
        assert abs(2 * first - counts[index]) <= 2
