"""`mesh instances` and `mesh drain`, against the demo."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.harness import RunningMesh, eventually

pytestmark = pytest.mark.xdist_group("demo")


def states(demo: RunningMesh) -> dict[str, tuple[str, str]]:
    shown = json.loads(demo.mesh("instances", "--json").stdout)
    return {one["instance_id"]: (one["health"], one["reason"]) for one in shown["instances"]}


def test_every_instance_with_its_state(demo: RunningMesh) -> None:
    shown = demo.mesh("instances", "orders")
    assert (shown.returncode, shown.stderr) == (0, "")
    head, *rows = [line.split() for line in shown.stdout.splitlines()]
    assert head == ["SERVICE", "INSTANCE", "STATE", "ENDPOINT", "VERSION", "ZONE", "WEIGHT", "AGE", "WHY"]
    where = demo.summary["demo"]["orders-1"]
    assert rows[0][:7] == ["orders", "orders-1", "SERVING", where, "1.0.0", "-", "100"]
    assert [row[1] for row in rows] == ["orders-1", "orders-2"]
    nobody = demo.mesh("instances", "unheard")
    assert (nobody.returncode, nobody.stdout) == (0, "No instance is registered.\n")
    wrong = demo.mesh("instances", "No Name")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "1-63 characters of a-z 0-9 and -" in wrong.stderr


def test_a_drain_is_acknowledged_by_whoever_calls_the_service_and_undone(demo: RunningMesh) -> None:
    try:
        done = demo.mesh("drain", "orders-2", "--reason", "new disk")
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"orders/orders-2 is draining: \d watchers? acknowledged\. It may exit\.\n", done.stdout)
        # All who watch had put it into force when the answer came: nothing to wait for.
        assert states(demo)["orders-2"] == ("DRAINING", "new disk")

        def again() -> bool:
            said = json.loads(demo.mesh("drain", "orders/orders-2", "--json").stdout)
            assert said["not_acknowledged"] == []
            return bool(said["acknowledged"] == 4)

        assert eventually(again, "the edge, the storefront and both of orders, which call others, acknowledge it")
    finally:
        undone = demo.mesh("drain", "orders-2", "--undo")
    assert undone.stdout == "orders/orders-2 is no longer drained: it gets calls again, if it wants any.\n"
    eventually(lambda: states(demo)["orders-2"] == ("SERVING", ""), "it serves again")


def test_who_is_not_there_cannot_be_drained(demo: RunningMesh) -> None:
    shown = demo.mesh("drain", "nobody")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "mesh: no instance 'nobody' is registered\n"
