"""The data folder of a mesh: made, proven writable, and locked, so that two meshes never share one."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from mesh.errors import StartError

LOG_LIMIT = 1 << 20


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Make `folder`, hold its lock while the block runs, and give its absolute path.

    Raises:
        StartError: it cannot be written, or another mesh runs on it.

    """
    folder = folder.expanduser().absolute()
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartError(
            f"cannot write to the data folder {folder}: {error.strerror}; choose another one with --data-dir"
        ) from error
    try:
        _lock(lock, folder)
        yield folder
    finally:
        # The file stays: removing it would let two others lock two files of one name.
        os.close(lock)


def _lock(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
        raise StartError(
            f"another mesh{f' (process {holder})' if holder else ''} runs on the data folder {folder}: "
            "stop it, or choose another folder with --data-dir"
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


class Log:
    """The file that gets what one part says; the one before it is kept as `NAME.log.1`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = 0

    def open(self) -> int:
        """Return a descriptor to append to, for one run of the part; a long log is set aside first."""
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size > LOG_LIMIT:
                self.path.replace(f"{self.path}.1")
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._start = os.fstat(descriptor).st_size
        return descriptor

    def error(self) -> str:
        """Return why the last run ended: its last line that begins with "mesh: ", else its last line, else ""."""
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            file.seek(max(self._start, file.seek(0, os.SEEK_END) - LOG_LIMIT))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
            said = [line.removeprefix("mesh: ") for line in lines if line.startswith("mesh: ")]
            return (said or lines or [""])[-1]
        return ""
