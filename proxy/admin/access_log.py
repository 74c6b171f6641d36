"""Writes the access log: a JSON object a line, to standard output or to a file that is kept small."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TextIO

from mesh.errors import StartError
from proxy.interceptors.access_log import AccessLog, record

FLUSH_SECONDS = 0.2

# A log file is renamed to FILE.1 when it is this large, FILE.1 to FILE.2; what was FILE.2 goes.
MAX_FILE_BYTES = 64 * 1024 * 1024
STDOUT = "-"


@contextlib.asynccontextmanager
async def write_access_log(log: AccessLog, destination: str) -> AsyncIterator[None]:
    """Write what `log` notes to `destination` ("-" or a path) while the context is open, and all of it at the end.

    Raises:
        StartError: the file cannot be written.

    """
    output = _open(destination)

    def flush() -> None:
        lines = [json.dumps(record(ended_ns, call)) for ended_ns, call in log.take()]
        if lines:
            output.write("\n".join(lines) + "\n")

    async def flush_always() -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            flush()

    task = asyncio.create_task(flush_always())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        flush()
        output.close()


class _Output:
    """Standard output, or a file that is rotated. What cannot be written is dropped, not raised."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO = path.open("a", encoding="utf-8") if path else sys.stdout
        self._size = path.stat().st_size if path else 0
        self._failed = False

    def write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
            self._size += len(text)
            if self._path is not None and self._size >= MAX_FILE_BYTES:
                self._rotate(self._path)
            self._failed = False
        except OSError as error:  # a full disk or a closed pipe is the log's trouble, not the edge's
            if not self._failed:
                print(f"mesh: access log: {error}; records are lost until it can be written", file=sys.stderr)  # noqa: T201
            self._failed = True

    def close(self) -> None:
        if self._path is not None:
            self._file.close()

    def _rotate(self, path: Path) -> None:
        self._file.close()
        older = path.with_name(path.name + ".1")
        if older.exists():
            older.replace(path.with_name(path.name + ".2"))
        path.replace(older)
        self._file = path.open("a", encoding="utf-8")
        self._size = 0


def _open(destination: str) -> _Output:
    if destination == STDOUT:
        return _Output(None)
    try:
        return _Output(Path(destination))
    except OSError as error:
        raise StartError(
            f"cannot write the access log {destination}: {error.strerror}; choose another file with --access-log"
        ) from error
