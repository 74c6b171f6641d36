from __future__ import annotations

from pathlib import Path

import pytest

from mesh.config.model import Subject, View
from mesh.config.snapshot import Snapshot, SnapshotError
from mesh.errors import UsageError
from services.config.keys import make_key

SUBJECT = Subject("shop", "orders", "orders-1", "prod")
VIEW = View("c", 7, 3, "s", {"a": [{"$x": "hunter2"}], "b": 1}, frozenset({'a[0]["$x"]'}))


def test_with_a_key_nothing_is_lost_and_nothing_is_in_clear(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "snapshot.json"
    snapshot = Snapshot(path, make_key())
    assert snapshot.load(SUBJECT) is None
    snapshot.save(SUBJECT, VIEW)
    assert snapshot.load(SUBJECT) == VIEW
    assert "hunter2" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["snapshot.json"]


@pytest.mark.parametrize("key", ["", "A" * 43 + "="])
def test_without_the_key_secrets_are_missing(tmp_path: Path, key: str) -> None:
    Snapshot(tmp_path / "s", make_key() if key else "").save(SUBJECT, VIEW)
    found = Snapshot(tmp_path / "s", key).load(SUBJECT)
    assert found is not None
    assert (found.content["b"], found.missing) == (1, VIEW.secret_paths)


def test_somebody_elses_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "s"
    Snapshot(path).save(SUBJECT, VIEW)
    assert Snapshot(path).load(Subject("shop", "orders", "orders-2", "prod")) is None
    for damage in ("", "{", "[]", '{"format": 1}', "\x00"):
        path.write_text(damage)
        with pytest.raises(SnapshotError, match="cannot be used"):
            Snapshot(path).load(SUBJECT)


def test_no_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="32 bytes"):
        Snapshot(tmp_path, "abc")
