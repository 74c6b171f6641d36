from __future__ import annotations

import pytest

from mesh.discovery.targets import Targets
from mesh.errors import UsageError
from mesh.options import parse_addresses


def test_one_target_waits_after_each_failure() -> None:
    targets = Targets("a:1", dice=lambda: 0.0)
    assert [(targets.current, targets.move_on()) for _ in range(3)] == [("a:1", 0.025), ("a:1", 0.05), ("a:1", 0.1)]


def test_several_are_tried_at_once_and_waited_for_only_together() -> None:
    targets = Targets("a:1,b:1,c:1", dice=lambda: 0.0)
    seen = [(targets.current, targets.move_on()) for _ in range(6)]
    assert seen == [("a:1", 0.0), ("b:1", 0.0), ("c:1", 0.025), ("a:1", 0.0), ("b:1", 0.0), ("c:1", 0.05)]


def test_one_that_serves_is_kept_and_starts_the_count_anew() -> None:
    targets = Targets("a:1,b:1", dice=lambda: 0.0)
    targets.move_on()
    targets.reset()
    assert targets.current == "b:1"
    assert targets.move_on() == 0.0
    assert targets.current == "a:1"


def test_a_fleet_spreads_over_all() -> None:
    firsts = {Targets("a:1,b:1,c:1", dice=iter([face]).__next__).current for face in (0.0, 0.5, 0.99)}
    assert firsts == {"a:1", "b:1", "c:1"}


def test_addresses_in_one_spelling() -> None:
    assert parse_addresses(" a:01 ,[::1]:2", "--control") == "a:1,[::1]:2"
    for wrong in ("a:1,", ",a:1", "a:1,,b:1", "a:1;b:1", ""):
        with pytest.raises(UsageError, match="--control"):
            parse_addresses(wrong, "--control")
