from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import UsageError
from mesh.testing.clock import ManualClock
from services.registry.protection import ProtectionOptions, SelfProtection

OPTIONS = ProtectionOptions()


def keys(count: int, service: str = "orders") -> list[tuple[str, str]]:
    return [(service, str(number)) for number in range(count)]


def lose(policy: SelfProtection[str], ids: list[tuple[str, str]], live: int) -> list[str]:
    """Let `ids` expire one after the other while `live` others live; return what is kept in the end."""
    kept: list[str] = []
    for left, key in zip(range(len(ids) - 1, -1, -1), ids, strict=True):
        kept += policy.expired(key, key[1], live + left, protected=bool(kept))
    return kept


def test_more_than_half_at_once_and_all_that_was_lost_comes_back() -> None:
    policy = SelfProtection[str](OPTIONS, ManualClock())
    assert lose(policy, keys(6), live=4) == list("012345")


@pytest.mark.parametrize(("lost", "live"), [(5, 5), (2, 0), (1, 0), (3, 3), (50, 50)])
def test_half_or_a_few_is_what_happens(lost: int, live: int) -> None:
    assert lose(SelfProtection[str](OPTIONS, ManualClock()), keys(lost), live) == []


def test_slowly_is_not_at_once() -> None:
    clock = ManualClock()
    policy = SelfProtection[str](OPTIONS, clock)
    for left, key in zip(range(9, -1, -1), keys(10), strict=True):
        assert policy.expired(key, key[1], left, protected=False) == []
        clock.advance(OPTIONS.window_seconds / 2)  # never three within the window


def test_who_came_back_is_not_missing() -> None:
    policy = SelfProtection[str](OPTIONS, ManualClock())
    ids = keys(4)
    assert policy.expired(ids[0], "0", 3, protected=False) == []
    assert policy.expired(ids[1], "1", 2, protected=False) == []
    policy.came(ids[0])
    assert policy.expired(ids[2], "2", 2, protected=False) == []  # two of four are missing
    assert policy.expired(ids[3], "3", 1, protected=False) == ["1", "2", "3"]


def test_services_are_judged_each_by_itself() -> None:
    policy = SelfProtection[str](OPTIONS, ManualClock())
    for key in (*keys(2, "a"), *keys(2, "b"), *keys(2, "c")):
        assert policy.expired(key, key[1], 0, protected=False) == []


def test_it_is_over_when_most_are_back() -> None:
    policy = SelfProtection[str](OPTIONS, ManualClock())
    assert not policy.is_over(live=8, kept=2)
    assert policy.is_over(live=17, kept=3)
    assert policy.is_over(live=0, kept=0)


def test_it_can_be_switched_off() -> None:
    policy = SelfProtection[str](ProtectionOptions(enabled=False), ManualClock())
    assert lose(policy, keys(10), live=0) == []


@pytest.mark.parametrize("wrong", [{"share": 0}, {"share": 1.0}, {"minimum": 0}, {"max_seconds": 1}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="protection: "):
        ProtectionOptions(**wrong)  # type: ignore[arg-type]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("expire"), st.integers(0, 7)),
        st.tuples(st.just("leave"), st.integers(0, 7)),
        st.tuples(st.just("come"), st.integers(0, 7)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
    ),
    max_size=60,
)


@given(STEPS)
def test_it_agrees_with_counting_what_expired_in_the_window(steps: list[tuple[str, int]]) -> None:
    clock = ManualClock()
    policy = SelfProtection[int](OPTIONS, clock)
    live = set(range(8))
    lost: deque[tuple[float, int]] = deque()
    for step, number in steps:
        if step == "wait":
            clock.advance(number)
        elif step == "leave":
            live.discard(number)  # nobody tells the policy: who leaves by himself is only missed in what lives
        elif step == "come" and number not in live:
            live.add(number)
            policy.came(("s", str(number)))
            lost = deque(one for one in lost if one[1] != number)
        elif step == "expire" and number in live:
            live.discard(number)
            lost = deque(one for one in lost if one[1] != number)
            lost.append((clock.now(), number))
            missing = [who for at, who in lost if at > clock.now() - OPTIONS.window_seconds]
            trips = len(missing) >= OPTIONS.minimum and len(missing) > OPTIONS.share * (len(missing) + len(live))
            assert policy.expired(("s", str(number)), number, len(live), protected=False) == (missing if trips else [])
            if trips:
                lost.clear()
    assert policy.expired(("s", "9"), 9, 100, protected=True) == [9]
