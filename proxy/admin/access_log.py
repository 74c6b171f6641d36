"""Writes the access log: a JSON object a line, to standard output or to a file that is kept small.

A thread of its own formats and writes, since a full disk or a reader that has stopped blocks whoever writes. The
queue between is bounded (proxy/interceptors/access_log.py): a log never delays a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import stat
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mesh.errors import StartError
from proxy.call.call import Call
from proxy.interceptors.access_log import AccessLog, line

FLUSH_SECONDS = 0.2

# How long the end of the edge waits for the last records to be taken.
CLOSE_SECONDS = 2.0

# A log file is renamed to FILE.1 when it is this large, FILE.1 to FILE.2; what was FILE.2 goes.
MAX_FILE_BYTES = 64 * 1024 * 1024
STDOUT = "-"
OFF = "off"

# Gets calls with when they ended, and the line of each.
Drain = Callable[[Sequence[tuple[int, Call]], Sequence[str]], None]


@contextlib.asynccontextmanager
async def write_access_log(log: AccessLog, destination: str, also: Drain | None = None) -> AsyncIterator[None]:
    """Write what `log` notes to `destination` ("-", a path, "off") while the context is open, and all of it at the end.

    `also` gets the same records, in the same thread.

    Raises:
        StartError: the file cannot be written.

    """
    writer = _Writer(log, None if destination == OFF else _open(destination), also)
    writer.start()
    try:
        yield
    finally:
        writer.ending.set()
        await asyncio.to_thread(writer.join, CLOSE_SECONDS)


def check_access_log(destination: str) -> None:
    """Raise StartError when the access log cannot be written."""
    _open(destination).close()


class _Writer(threading.Thread):
    def __init__(self, log: AccessLog, output: _Output | None, also: Drain | None) -> None:
        # A daemon: a reader that never reads again must not keep the process.
        super().__init__(name="access-log", daemon=True)
        self._log = log
        self._output = output
        self._also = also
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()
        if self._output is not None:
            self._output.close()

    def _flush(self) -> None:
        records = self._log.take()
        lines = [line(ended_ns, call) for ended_ns, call in records]
        if lines and self._output is not None:
            self._output.write(("\n".join(lines) + "\n").encode())
        if lines and self._also is not None:
            self._also(records, lines)


class _Output:
    """Standard output, or a file that is rotated. What cannot be written is lost, and said once."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file = _append(path)
        self._is_pipe = stat.S_ISFIFO(os.fstat(self._file.fileno()).st_mode)
        self._failed = False

    def write(self, data: bytes) -> None:
        try:
            for piece in _pieces(data) if self._is_pipe else (data,):
                self._file.write(piece)
            # The file's size, not what was written here: the workers of an edge write to one file.
            if self._path is not None and os.fstat(self._file.fileno()).st_size >= MAX_FILE_BYTES:
                self._rotate(self._path)
            self._failed = False
        except OSError as error:  # a full disk or a closed pipe is the log's trouble, not the edge's
            if not self._failed:
                print(f"mesh: access log: {error}; records are lost until it can be written", file=sys.stderr)  # noqa: T201
            self._failed = True

    def close(self) -> None:
        self._file.close()

    def _rotate(self, path: Path) -> None:
        # Another worker may be about to do it, or have done it: then there is a new file to go on with.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(self._file.fileno())):
            older = path.with_name(path.name + ".1")
            if older.exists():
                older.replace(path.with_name(path.name + ".2"))
            path.replace(older)
        self._file.close()
        self._file = _append(path)


def _pieces(data: bytes) -> Iterator[bytes]:
    """Cut lines into pieces that a pipe takes whole, so that the lines of several workers do not mix.

    A line that is longer than that goes alone.
    """
    while len(data) > select.PIPE_BUF:
        end = data.rfind(b"\n", 0, select.PIPE_BUF) + 1 or data.find(b"\n") + 1
        yield data[:end]
        data = data[end:]
    if data:
        yield data


def _append(path: Path | None) -> BinaryIO:
    """Open without a buffer: what could not be written must not be kept for the next time."""
    if path is None:
        return open(sys.stdout.fileno(), "ab", buffering=0, closefd=False)
    return path.open("ab", buffering=0)


def _open(destination: str) -> _Output:
    if destination == STDOUT:
        return _Output(None)
    try:
        return _Output(Path(destination))
    except OSError as error:
        raise StartError(
            f"cannot write the access log {destination}: {error.strerror}; choose another file with --access-log"
        ) from error
