from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.errors import StartError
from mesh.testing import ManualClock
from proxy.admin import access_log
from proxy.admin.access_log import write_access_log
from proxy.call.call import Call
from proxy.interceptors.access_log import AccessLog


def noted(log: AccessLog, count: int = 1) -> None:
    for number in range(count):
        call = Call(b"/a.B/C", (), "peer", "public", 1.0)
        call.correlation_id = f"c-{number}".encode()
        call.finish(0)
        log.on_end(call)


async def test_everything_noted_is_written_by_the_end(tmp_path: Path) -> None:
    log, path = AccessLog(ManualClock()), tmp_path / "access.log"
    async with write_access_log(log, str(path)):
        noted(log, 3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["correlation_id"] for line in lines] == ["c-0", "c-1", "c-2"]


async def test_a_log_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for _ in range(2):
        log = AccessLog(ManualClock())
        async with write_access_log(log, str(path)):
            noted(log)
    assert len(path.read_text().splitlines()) == 2


async def test_files_are_kept_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MAX_FILE_BYTES", 100)
    path = tmp_path / "access.log"
    for number in range(5):
        log = AccessLog(ManualClock())
        async with write_access_log(log, str(path)):
            noted(log, number + 1)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["access.log", "access.log.1", "access.log.2"]
    assert path.read_text() == ""
    assert len((tmp_path / "access.log.1").read_text().splitlines()) == 5
    assert len((tmp_path / "access.log.2").read_text().splitlines()) == 4


async def test_a_path_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot write the access log"):
        async with write_access_log(AccessLog(ManualClock()), str(tmp_path / "no" / "such" / "folder.log")):
            pass


async def test_a_full_disk_does_not_stop_the_edge(capsys: pytest.CaptureFixture[str]) -> None:
    log = AccessLog(ManualClock())
    async with write_access_log(log, "/dev/full"):
        noted(log)
    assert "access log" in capsys.readouterr().err


async def test_workers_rotate_the_file_that_they_share_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MAX_FILE_BYTES", 1000)
    path = tmp_path / "access.log"
    one, other = access_log._Output(path), access_log._Output(path)
    one.write(b"a" * 999 + b"\n")  # rotates: the other one still has the old file
    other.write(b"b" * 9 + b"\n")  # sees that it is full, and that it was rotated already
    other.write(b"c" * 9 + b"\n")
    one.write(b"d" * 9 + b"\n")
    one.close()
    other.close()
    assert path.read_bytes() == b"c" * 9 + b"\n" + b"d" * 9 + b"\n"
    assert (tmp_path / "access.log.1").read_bytes().endswith(b"b" * 9 + b"\n")
    assert not (tmp_path / "access.log.2").exists()


def test_lines_are_written_to_a_pipe_in_pieces_that_it_takes_whole() -> None:
    lines = b"".join(b"%d" % number * 700 + b"\n" for number in range(10)) + b"x" * 10_000 + b"\n" + b"y\n"
    pieces = list(access_log._pieces(lines))
    assert b"".join(pieces) == lines
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= 4096 or piece.count(b"\n") == 1 for piece in pieces)
