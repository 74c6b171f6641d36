from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.storage.kv.leases import Countdown


def test_a_lease_runs_out_unless_renewed() -> None:
    countdown = Countdown()
    countdown.start(1, 10, now=0)
    countdown.start(2, 10, now=0)
    assert countdown.due(9.9) == []
    assert countdown.renew(1, now=9.9) == 10
    assert countdown.due(10) == [2]
    assert countdown.due(10) == []  # handed out once
    assert countdown.remaining(1, now=10) == pytest.approx(9.9)
    assert countdown.due(19.9) == [1]


def test_what_has_run_out_cannot_be_renewed() -> None:
    countdown = Countdown()
    countdown.start(1, 10, now=0)
    assert countdown.renew(1, now=10) is None  # before anyone looked
    assert countdown.due(10) == [1]
    assert countdown.renew(1, now=10) is None
    assert countdown.renew(7, now=10) is None


def test_what_could_not_be_ended_is_handed_out_again() -> None:
    countdown = Countdown()
    countdown.start(1, 10, now=0)
    assert countdown.due(10) == [1]
    countdown.retry([1], now=10, delay=1)
    assert countdown.due(10.5) == []
    assert countdown.due(11) == [1]
    countdown.end(1)
    countdown.retry([1], now=11)
    assert countdown.due(100) == []


def test_a_time_in_which_nobody_could_renew_does_not_count() -> None:
    countdown = Countdown()
    countdown.start(1, 10, now=0)
    countdown.put_off(30)
    assert countdown.due(39) == []
    assert countdown.next_deadline() == 40
    assert countdown.due(40) == [1]


def test_short_lives_with_long_ttls_do_not_pile_up() -> None:
    countdown = Countdown()
    for lease_id in range(10_000):
        countdown.start(lease_id, 3600, now=0)
        countdown.end(lease_id)
    assert len(countdown) == 0
    assert len(countdown._heap) <= 1001


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["start", "renew", "end", "wait"]), st.integers(1, 9))))
def test_it_agrees_with_looking_at_every_deadline(steps: list[tuple[int, str, int]]) -> None:
    countdown, now, deadlines = Countdown(), 0, dict[int, int]()
    for lease_id, step, amount in steps:
        if step == "start" and lease_id not in deadlines:
            countdown.start(lease_id, 5, now)
            deadlines[lease_id] = now + 5
        elif step == "renew":
            assert (countdown.renew(lease_id, now) is not None) == (lease_id in deadlines)
            if lease_id in deadlines:
                deadlines[lease_id] = now + 5
        elif step == "end":
            countdown.end(lease_id)
            deadlines.pop(lease_id, None)
        elif step == "wait":
            now += amount
            expected = {lease for lease, deadline in deadlines.items() if deadline <= now}
            due = countdown.due(now)
            assert sorted(due) == sorted(expected)
            for lease in expected:
                countdown.end(lease)
                del deadlines[lease]
