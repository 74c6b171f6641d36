from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh.cli.supervisor.folder import LOG_LIMIT, Log, claimed
from mesh.errors import StartError


def test_a_folder_is_made_and_given_as_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with claimed(Path("a/b")) as folder:
        assert folder == tmp_path / "a" / "b"
        assert (folder / "logs").is_dir()


def test_a_folder_is_claimed_once_at_a_time(tmp_path: Path) -> None:
    with (
        claimed(tmp_path),
        pytest.raises(StartError, match=f"another mesh \\(process {os.getpid()}\\)"),
        claimed(tmp_path),
    ):
        pass
    with claimed(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_said_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="Not a directory; choose another one with --data-dir"):
        claimed(tmp_path / "file").__enter__()


def write(log: Log, text: str) -> None:
    descriptor = log.open()
    os.write(descriptor, text.encode())
    os.close(descriptor)


def test_the_error_is_the_last_run_s_last_line_that_the_mesh_said(tmp_path: Path) -> None:
    log = Log(tmp_path / "part.log")
    assert log.error() == ""
    write(log, "mesh: of the run before\n")
    write(log, "some library said\nmesh: first\nmesh: cannot listen\n  trace\n")
    assert log.error() == "cannot listen"
    write(log, "Traceback\n  line 1\nValueError: wrong\n\n")
    assert log.error() == "ValueError: wrong"
    write(log, "")
    assert log.error() == ""


def test_a_long_log_is_set_aside_at_the_next_run(tmp_path: Path) -> None:
    log = Log(tmp_path / "part.log")
    write(log, "x" * (LOG_LIMIT + 1))
    write(log, "mesh: new\n")
    assert log.path.read_text() == "mesh: new\n"
    assert len((tmp_path / "part.log.1").read_text()) == LOG_LIMIT + 1
    assert log.error() == "new"
