from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.config.gray import Rule, place, selects
from services.config.layers import Target

INSTANCES = [Target("orders", "prod", f"orders-{number}", {"zone": "x"}) for number in range(2000)]
PERCENTS = st.floats(0.01, 100)


@given(PERCENTS, PERCENTS, st.text(min_size=1, max_size=8))
def test_whoever_is_in_stays_in(one: float, other: float, instance: str) -> None:
    target = Target("orders", "", instance)
    small, large = sorted((one, other))
    assert selects(Rule(small), target, "shop/2") <= selects(Rule(large), target, "shop/2")
    assert selects(Rule(100), target, "shop/2")
    assert selects(Rule(one), target, "shop/2") == selects(Rule(one), Target("orders", "x", instance), "shop/2")


def test_the_share_is_about_what_was_asked_for() -> None:
    for percent in (1, 10, 50, 90):
        share = sum(selects(Rule(percent), target, "shop/2") for target in INSTANCES) * 100 / len(INSTANCES)
        assert abs(share - percent) < 4


def test_each_release_begins_with_others() -> None:
    firsts = [{one.instance for one in INSTANCES if place(one, f"shop/{number}") < 5} for number in range(2, 6)]
    assert all(len(one & other) < len(one) / 2 for one in firsts for other in firsts if one is not other)


def test_places_never_change() -> None:
    """A fleet is half rolled out while control processes are updated: they must agree across versions."""
    assert [round(place(target, "shop/2"), 6) for target in INSTANCES[:3]] == [63.248048, 86.327329, 21.888865]


def test_labels_are_all_to_match() -> None:
    target = Target("orders", "prod", "orders-1", {"zone": "x", "service": "forged"})
    assert selects(Rule(None, {"zone": "x", "environment": "prod"}), target, "")
    assert selects(Rule(None, {"instance": "orders-1", "service": "orders"}), target, "")
    for labels in ({"zone": "y"}, {"zone": "x", "rack": "1"}, {"service": "forged"}):
        assert not selects(Rule(None, labels), target, "")
    assert not selects(Rule(50), Target("orders"), "")  # no instance, no share
    assert not selects(Rule(100, {"zone": "y"}), target, "")
