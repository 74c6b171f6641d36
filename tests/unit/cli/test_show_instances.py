from __future__ import annotations

import pytest

from mesh.api.registry.v1 import (
    HEALTH_DRAINING,
    HEALTH_NOT_SERVING,
    HEALTH_SERVING,
    OPINION_SOURCE_CHECK,
    OPINION_SOURCE_INSTANCE,
    Instance,
    Opinion,
)
from mesh.cli.overview.instances import age, lines, structure

NOW = 1_700_000_100.0
ONE = Instance(
    service="orders",
    instance_id="a",
    endpoints=["h:1"],
    weight=100,
    zone="eu",
    health=HEALTH_SERVING,
    warm_up_seconds=200,
    registered_at_ms=1_700_000_000_000,
    serving_since_ms=1_700_000_000_000,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (90_000, "1d01h"), (0, "0s")],
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_the_table_says_why_and_how_much() -> None:
    sick = Instance(service="orders", instance_id="b", endpoints=["h:2"], weight=5)
    sick.health, sick.health_reason = HEALTH_NOT_SERVING, "it hangs"
    kept = Instance(service="orders", instance_id="c", endpoints=["h:3"], health=HEALTH_DRAINING, protected=True)
    rows = [line.split("  ") for line in lines([ONE, sick, kept], NOW)]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows[1:]]
    assert cells == [
        ["orders", "a", "SERVING", "h:1", "-", "eu", "50 of 100", "1m40s", "-"],
        ["orders", "b", "NOT_SERVING", "h:2", "-", "-", "5", "-", "it hangs"],
        ["orders", "c", "DRAINING (protected)", "h:3", "-", "-", "0", "-", "-"],
    ]
    assert lines([], NOW) == ["No instance is registered."]


def test_programs_see_every_opinion() -> None:
    one = Instance()
    one.CopyFrom(ONE)
    one.opinions.add(source=OPINION_SOURCE_INSTANCE, health=HEALTH_SERVING)
    one.opinions.append(Opinion(source=OPINION_SOURCE_CHECK, health=HEALTH_NOT_SERVING, reason="no", since_ms=5))
    (shown,) = structure(9, [one], NOW)["instances"]
    assert shown["effective_weight"] == 50
    assert [(said["source"], said["health"], said["reason"]) for said in shown["opinions"]] == [
        ("INSTANCE", "SERVING", ""),
        ("CHECK", "NOT_SERVING", "no"),
    ]
