"""The state machine of alerts against what it shall be, step by step, with any conditions at any times."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.metrics.alerts.rules import Rule
from services.metrics.alerts.states import RESOLVED_KEPT_MS, Active, Holds, State, step
from services.metrics.promql.labels import Labels, from_mapping

ONE, OTHER = from_mapping({"alertname": "A", "i": "1"}), from_mapping({"alertname": "A", "i": "2"})


def rule(for_: float = 0, keep: float = 0) -> Rule:
    return Rule("A", alerting=True, expr="x", for_=for_, keep_firing_for=keep)


def after(rule_: Rule, *story: tuple[int, float | None]) -> list[State | None]:
    """Return the states of one alert: (seconds, value or None when its condition does not hold)."""
    alerts: dict[Labels, Active] = {}
    states = []
    for at, value in story:
        alerts = step(rule_, alerts, {} if value is None else {ONE: Holds(value, {})}, at * 1000)
        states.append(alerts[ONE].state if ONE in alerts else None)
    return states


P, F, R = State.PENDING, State.FIRING, State.RESOLVED


def test_it_fires_once_its_condition_has_held_for_long_enough() -> None:
    assert after(rule(), (0, 1)) == [F]
    assert after(rule(30), (0, 1), (20, 1), (30, 1)) == [P, P, F]
    assert after(rule(30), (0, 1), (20, None), (40, 1), (60, 1), (70, 1)) == [P, None, P, P, F]


def test_it_is_resolved_and_then_forgotten() -> None:
    kept = RESOLVED_KEPT_MS // 1000
    assert after(rule(), (0, 1), (10, None), (9 + kept, None), (10 + kept, None)) == [F, R, R, None]
    assert after(rule(20), (0, 1), (20, 1), (30, None), (40, 1), (60, 1)) == [P, F, R, P, F]


def test_it_may_be_kept_firing() -> None:
    assert after(rule(0, 30), (0, 1), (10, None), (30, None), (39, None), (40, None)) == [F, F, F, F, R]
    assert after(rule(0, 30), (0, 1), (10, None), (30, 1), (40, None), (60, None), (70, None)) == [F, F, F, F, F, R]


def test_values_and_annotations_are_the_newest() -> None:
    alerts = step(rule(), {}, {ONE: Holds(1, {"a": "old"})}, 0)
    alerts = step(rule(), alerts, {ONE: Holds(2, {"a": "new"}), OTHER: Holds(3, {})}, 1000)
    assert (alerts[ONE].value, alerts[ONE].annotations, alerts[ONE].fired_ms) == (2, {"a": "new"}, 0)
    assert alerts[OTHER].fired_ms == 1000


_STORY = st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=30)


@settings(max_examples=300, deadline=None)
@given(_STORY, st.sampled_from((0, 10, 60)), st.sampled_from((0, 10, 60)))
def test_every_story_keeps_the_rules(story: list[tuple[int, bool]], for_: int, keep: int) -> None:
    now, since, last_held = 0, None, None
    alerts: dict[Labels, Active] = {}
    for pause, holds in story:
        now += pause
        before = alerts.get(ONE)
        alerts = step(rule(for_, keep), alerts, {ONE: Holds(1, {})} if holds else {}, now * 1000)
        active = alerts.get(ONE)
        was_firing = before is not None and before.state is F
        if holds:
            since = since if since is not None and before is not None and before.state is not R else now
            assert active is not None
            assert active.state is (F if was_firing or now - since >= for_ else P)
            assert active.active_ms == since * 1000
            last_held = now
        else:
            if active is None or active.state is not F:
                since = None
            if was_firing:
                assert active is not None
                assert active.state in (F, R)
                if active.state is F:
                    assert keep
                    assert last_held is not None
            elif before is not None and before.state is P:
                assert active is None
        if active is not None and active.state is R:
            assert active.fired_ms <= active.resolved_ms <= now * 1000
            assert active.acknowledged is None
