from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.resilience.policy import RetryOptions
from mesh.resilience.retry_budget import WINDOW_SECONDS, RetryBudget
from mesh.testing import ManualClock

# Seconds that pass, calls that begin, retries that are asked for.
STEPS = st.lists(st.tuples(st.floats(0, 12), st.integers(0, 40), st.integers(0, 40)), max_size=40)


@given(STEPS, st.floats(0, 1), st.floats(0, 3))
def test_never_more_than_the_share_and_the_minimum_in_any_window(
    steps: list[tuple[float, int, int]], share: float, minimum: float
) -> None:
    clock = ManualClock()
    budget = RetryBudget(RetryOptions(budget_share=share, budget_minimum=minimum))
    calls: list[float] = []
    retries: list[float] = []
    for seconds, began, asked in steps:
        clock.advance(seconds)
        now = clock.now()
        for _ in range(began):
            budget.deposit(now)
            calls.append(now)
        for _ in range(asked):
            if budget.withdraw(now):
                retries.append(now)
                since = int(now) - WINDOW_SECONDS + 1  # counted by the second
                made = sum(one >= since for one in retries)
                assert made <= share * sum(one >= since for one in calls) + minimum * WINDOW_SECONDS
    assert (budget.granted, budget.refused) == (len(retries), sum(asked for _, _, asked in steps) - len(retries))


def test_what_is_allowed_is_given() -> None:
    clock = ManualClock()
    budget = RetryBudget(RetryOptions(budget_share=0.2, budget_minimum=1))
    assert [budget.withdraw(clock.now()) for _ in range(11)] == [True] * 10 + [False]
    for _ in range(100):
        budget.deposit(clock.now())
    assert sum(budget.withdraw(clock.now()) for _ in range(50)) == 20
    clock.advance(WINDOW_SECONDS)
    assert sum(budget.withdraw(clock.now()) for _ in range(50)) == 10, "calls are forgotten, and retries"
    clock.advance(1e6)
    assert budget.withdraw(clock.now())


def test_other_options_keep_what_was_counted() -> None:
    clock = ManualClock()
    budget = RetryBudget(RetryOptions(budget_share=0, budget_minimum=0.5))
    assert [budget.withdraw(clock.now()) for _ in range(6)].count(True) == 5
    budget.follow(RetryOptions(budget_share=0, budget_minimum=0.6))
    assert [budget.withdraw(clock.now()) for _ in range(6)].count(True) == 1
