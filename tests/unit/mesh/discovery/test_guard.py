from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery.guard import HOLD_SECONDS, SnapshotGuard
from mesh.discovery.model import Directory, Instance, Service
from mesh.testing.clock import ManualClock


def directory(cluster: str, revision: int, *ids: str, ports: int = 0) -> Directory:
    made = [Instance("orders", name, (f"h:{ports or ord(name[0])}",)) for name in ids]
    services = {"orders": Service("orders")} if ids else {}
    return Directory(cluster, revision, services, {one.key: one for one in made})


def ids(found: Directory) -> str:
    return "".join(sorted(name for _, name in found.instances))


BEFORE = directory("one", 50, *"abcdef")


def test_a_registry_that_lost_its_storage_wipes_nobody_out_at_once() -> None:
    clock = ManualClock()
    guard = SnapshotGuard(clock)
    found = guard.snapshot(BEFORE, directory("two", 0))
    assert ids(found) == "abcdef"
    assert found.services == BEFORE.services  # callers hear "unavailable", not "unknown"
    assert (found.cluster_id, found.revision, guard.held) == ("two", 0, 6)
    clock.advance(HOLD_SECONDS - 1)
    assert ids(guard.changed(directory("two", 3, "a", "b"))) == "abcdef"
    assert guard.held == 4
    clock.advance(1)
    assert guard.seconds_left() == 0
    assert ids(guard.changed(directory("two", 3, "a", "b"))) == "ab"
    assert guard.seconds_left() is None


def test_one_that_came_back_and_left_is_gone() -> None:
    guard = SnapshotGuard(ManualClock())
    guard.snapshot(BEFORE, directory("two", 0))
    guard.changed(directory("two", 1, "a"))
    assert ids(guard.changed(directory("two", 2))) == "bcdef"


def test_one_that_came_back_under_another_name_takes_its_place() -> None:
    guard = SnapshotGuard(ManualClock())
    guard.snapshot(BEFORE, directory("two", 0))
    assert ids(guard.changed(directory("two", 1, "x", ports=ord("a")))) == "bcdefx"


def test_it_ends_when_most_are_back() -> None:
    guard = SnapshotGuard(ManualClock())
    guard.snapshot(BEFORE, directory("two", 0))
    assert ids(guard.changed(directory("two", 6, *"bcdefg"))) == "bcdefg"
    assert guard.held == 0


def test_the_same_registry_further_on_is_believed() -> None:
    guard = SnapshotGuard(ManualClock())
    assert ids(guard.snapshot(BEFORE, directory("one", 90))) == ""
    assert ids(guard.snapshot(BEFORE, directory("two", 1, *"abc"))) == "abc"  # not much smaller
    assert ids(guard.snapshot(Directory.EMPTY, directory("two", 1))) == ""


def test_a_registry_restored_from_an_old_copy_is_not_believed_at_once() -> None:
    assert ids(SnapshotGuard(ManualClock()).snapshot(BEFORE, directory("one", 7, "a"))) == "abcdef"


@given(st.lists(st.tuples(st.sets(st.sampled_from("abcdef")), st.integers(0, 30)), max_size=10))
def test_whatever_comes_it_shows_what_is_said_and_lasts_no_longer_than_it_may(
    said: list[tuple[set[str], int]],
) -> None:
    clock = ManualClock()
    guard = SnapshotGuard(clock)
    guard.snapshot(BEFORE, directory("two", 0))
    passed = 0
    for revision, (names, seconds) in enumerate(said, 1):
        clock.advance(seconds)
        passed += seconds
        found = guard.changed(directory("two", revision, *sorted(names)))
        assert names <= set(ids(found)) <= set("abcdef")
        if passed >= HOLD_SECONDS:
            assert set(ids(found)) == names
