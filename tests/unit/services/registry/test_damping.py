from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import UsageError
from mesh.testing.clock import ManualClock
from services.registry.damping import DampingOptions, FlapDamping

KEY = ("orders", "a")
OPTIONS = DampingOptions()


def test_a_few_changes_are_free_and_then_each_costs_more() -> None:
    damping = FlapDamping(OPTIONS, ManualClock())
    holds = [damping.changed(KEY) for _ in range(12)]
    assert holds[:5] == [0.0] * 5
    assert all(before < after for before, after in itertools.pairwise(holds[5:]))
    assert holds[5] >= OPTIONS.min_seconds


def test_a_hold_has_an_end_however_bad_it_is() -> None:
    damping = FlapDamping(OPTIONS, ManualClock())
    assert [damping.changed(KEY) for _ in range(10_000)][-1] == pytest.approx(OPTIONS.max_seconds)


def test_it_is_forgiven_by_half_in_each_half_life() -> None:
    clock = ManualClock()
    damping = FlapDamping(OPTIONS, clock)
    for _ in range(4):
        damping.changed(KEY)
    assert damping.penalty(KEY) == pytest.approx(4)
    clock.advance(OPTIONS.half_life_seconds)
    assert damping.penalty(KEY) == pytest.approx(2)
    clock.advance(3600)
    assert damping.changed(KEY) == 0.0


def test_one_restart_a_minute_is_never_too_often() -> None:
    clock = ManualClock()
    damping = FlapDamping(OPTIONS, clock)
    for _ in range(1000):
        assert damping.changed(KEY) == 0.0
        clock.advance(60)


def test_the_mesh_itself_is_never_held() -> None:
    damping = FlapDamping(OPTIONS, ManualClock())
    assert {damping.changed(("mesh-control", "a")) for _ in range(100)} == {0.0}


def test_what_is_forgiven_is_forgotten() -> None:
    clock = ManualClock()
    damping = FlapDamping(OPTIONS, clock)
    for number in range(10_000):
        damping.changed(("orders", str(number)))
    clock.advance(3600)
    damping.changed(KEY)
    assert len(damping) == 1


@given(st.lists(st.floats(0, 600), min_size=1, max_size=200))
def test_a_hold_lasts_until_the_penalty_is_low_within_its_bounds(pauses: list[float]) -> None:
    clock = ManualClock()
    damping = FlapDamping(OPTIONS, clock)
    for pause in pauses:
        clock.advance(pause)
        before = damping.penalty(KEY)
        hold = damping.changed(KEY)
        assert (hold > 0) == (damping.penalty(KEY) > OPTIONS.hold_above)
        assert hold == 0 or OPTIONS.min_seconds <= hold <= OPTIONS.max_seconds
        assert damping.penalty(KEY) <= min(before + 1, OPTIONS.ceiling) + 1e-9
        if hold > OPTIONS.min_seconds:
            left = damping.penalty(KEY) * 0.5 ** (hold / OPTIONS.half_life_seconds)
            assert left == pytest.approx(OPTIONS.release_below, rel=1e-6)


@pytest.mark.parametrize("wrong", [{"half_life_seconds": 0}, {"release_below": 6}, {"min_seconds": 1}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="damping: "):
        DampingOptions(**wrong)  # type: ignore[arg-type]
