from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery.model import Health, Instance
from mesh.resilience.warmup import (
    FIRST_SHARE,
    Member,
    effective_weight,
    shared_weights,
    warming,
    zone_shares,
)

PLAIN = Instance("orders", "a", ("h:1",), weight=200)


@pytest.mark.parametrize(
    ("age", "share"), [(-5, 0.1), (0, 0.1), (3, 0.1), (6, 0.2), (15, 0.5), (29, 29 / 30), (30, 1), (1e9, 1)]
)
def test_its_share_grows_in_a_line_from_a_tenth(age: float, share: float) -> None:
    one = replace(PLAIN, warm_up_seconds=30, serving_since=1000.0)
    assert effective_weight(one, 1000 + age) == pytest.approx(200 * share)


def test_without_a_warm_up_it_is_its_weight() -> None:
    assert effective_weight(PLAIN, 5) == 200
    assert effective_weight(replace(PLAIN, warm_up_seconds=30), 5) == 200  # not said since when
    assert effective_weight(replace(PLAIN, weight=0, warm_up_seconds=30, serving_since=4), 5) == 0


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 3600), st.integers(0, 1000))
def test_it_never_shrinks_with_time(one: float, other: float, warm_up: float, weight: int) -> None:
    instance = replace(PLAIN, weight=weight, warm_up_seconds=warm_up, serving_since=1.0)
    early, late = (effective_weight(instance, 1 + age) for age in sorted((one, other)))
    assert weight * FIRST_SHARE <= early + 1e-9
    assert early <= late <= weight


def test_there_is_something_to_work_out_anew_while_one_warms_up() -> None:
    warm = replace(PLAIN, warm_up_seconds=30, serving_since=1000.0)
    assert warming([PLAIN, warm], 1029)
    assert not warming([PLAIN, warm], 1030)
    assert not warming([PLAIN], 0)


def zones(*given: tuple[str, int, int]) -> list[Member]:
    """Return members of weight 100: of each zone so many that serve, of so many."""
    return [Member(zone, 100, serving=number < up) for zone, up, of in given for number in range(of)]


@pytest.mark.parametrize(
    ("members", "shares"),
    [
        (zones(("a", 3, 3), ("b", 3, 3)), {"a": 1.0}),
        (zones(("a", 3, 4), ("b", 4, 4)), {"a": 1.0}),  # three of four are enough
        (zones(("a", 2, 4), ("b", 4, 4)), {"a": 0.7, "b": 0.3}),
        (zones(("a", 1, 4), ("b", 4, 4), ("c", 2, 2)), {"a": 0.35, "b": 0.65 * 4 / 6, "c": 0.65 * 2 / 6}),
        (zones(("a", 0, 4), ("b", 1, 4), ("c", 3, 4)), {"b": 0.25, "c": 0.75}),
        (zones(("a", 1, 4), ("b", 0, 4)), {"a": 1.0}),  # nobody else serves
        (zones(("b", 1, 1), ("c", 3, 3)), {"b": 0.25, "c": 0.75}),  # nobody in this zone
        (zones(("a", 0, 2)), {}),
    ],
)
def test_calls_stay_in_the_zone_while_enough_of_it_serves(members: list[Member], shares: dict[str, float]) -> None:
    assert zone_shares(members, "a") == pytest.approx(shares)


def test_a_caller_without_a_zone_spreads_evenly() -> None:
    assert zone_shares(zones(("a", 1, 1), ("b", 3, 3)), "") == {"a": 0.25, "b": 0.75}


MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", ""]), st.integers(0, 1000), st.sampled_from(list(Health)), st.floats(0, 60)
    ),
    max_size=12,
)


@given(MEMBERS, st.sampled_from(["a", "b", ""]))
def test_shares_add_up_and_go_only_to_who_serves(given: list[tuple[str, int, Health, float]], zone: str) -> None:
    instances = [
        replace(
            PLAIN, instance_id=str(n), zone=where, weight=weight, health=health, warm_up_seconds=30, serving_since=s
        )
        for n, (where, weight, health, s) in enumerate(given)
    ]
    weights = shared_weights(instances, zone, 40.0)
    willing = [one.health is Health.SERVING and one.weight > 0 for one in instances]
    assert sum(weights) == pytest.approx(1.0 if any(willing) else 0.0)
    assert all(weight >= 0 and (weight == 0 or wants) for weight, wants in zip(weights, willing, strict=True))
    if not zone:
        assert all((weight > 0) == wants for weight, wants in zip(weights, willing, strict=True))
