from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.engines.wire.credit import EARLY, Budget, Lane

KIB = 1024


def test_the_first_bytes_are_given_back_at_once() -> None:
    lane = Lane(0)
    assert lane.receive(EARLY) == EARLY
    assert lane.receive(1) == 0
    assert lane.owed == 1


def test_what_has_left_is_given_back() -> None:
    lane = Lane(EARLY)
    assert lane.receive(10 * KIB) == 0
    assert lane.settle(EARLY + 4 * KIB) == 6 * KIB
    assert lane.settle(EARLY + 4 * KIB) == 0
    assert lane.settle(0) == 4 * KIB
    assert lane.owed == 0
    assert lane.receive(EARLY) == EARLY


@settings(deadline=None)
@given(st.data())
def test_bytes_are_given_back_once_and_never_too_early(data: st.DataObject) -> None:
    lane, received, paid, queued = Lane(0), 0, 0, 0
    for _ in range(data.draw(st.integers(1, 40))):
        if data.draw(st.booleans()):
            size = data.draw(st.integers(1, 40 * KIB))
            received += size
            queued += size
            paid += lane.receive(size)
        else:
            queued = data.draw(st.integers(0, queued))
            paid += lane.settle(queued)
        assert paid + lane.owed == received
        assert queued - lane.owed <= EARLY, "what lies here without being owed is bounded"
    paid += lane.settle(0)
    assert paid == received


def test_a_budget_ends() -> None:
    budget = Budget(10)
    assert budget.take(6)
    assert not budget.take(6)
    budget.give(6)
    assert budget.take(10)
