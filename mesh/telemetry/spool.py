"""Batches kept on disk while the sink is away: a folder for each producer, a file for each batch.

Files are written whole under another name first, and have a checksum: one that a crash cut off is told from a batch.
They are not forced to the disk one by one, so a power failure may lose the last seconds; the end of the process loses
none.
"""

from __future__ import annotations

import fcntl
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LOCK = "lock"
_CHECKSUM_BYTES = 4


class Spool:
    """The batches of one producer, in order. Its folder is made with the first one, and goes with the last."""

    def __init__(self, folder: Path, lock: BinaryIO | None = None) -> None:
        """Keep batches in `folder`; `lock` is held already where it is what another process left."""
        self.folder = folder
        self._lock = lock
        # Sequence numbers and sizes.
        self._kept: deque[tuple[int, int]] = deque()
        self.size = 0
        for path in sorted(folder.glob("*.batch")) if folder.is_dir() else ():
            self._keep(int(path.stem), path.stat().st_size)

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def first(self) -> int:
        """The sequence number of the oldest batch."""
        return self._kept[0][0]

    def put(self, seq: int, data: bytes) -> None:
        """Keep a batch, behind or before all others as its number says. Raises `OSError`."""
        if self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _locked(self.folder)
        path = self._path(seq)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "big") + data)
        temporary.replace(path)
        if self._kept and seq < self.first:
            self._kept.appendleft((seq, len(data) + _CHECKSUM_BYTES))
            self.size += len(data) + _CHECKSUM_BYTES
        else:
            self._keep(seq, len(data) + _CHECKSUM_BYTES)

    def read(self) -> bytes | None:
        """Return the oldest batch; None when its file is not what was written."""
        try:
            data = self._path(self.first).read_bytes()
        except OSError:
            return None
        checksum, data = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
        return data if zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "big") == checksum else None

    def drop(self) -> None:
        """Forget the oldest batch."""
        seq, size = self._kept.popleft()
        self.size -= size
        self._path(seq).unlink(missing_ok=True)
        if not self._kept:
            self.close()

    def close(self) -> None:
        """Let go of the folder, and remove it if there is nothing in it."""
        if self._lock is None:
            return
        if not self._kept:
            for path in self.folder.iterdir():
                path.unlink(missing_ok=True)
            self.folder.rmdir()
        self._lock.close()
        self._lock = None

    def _keep(self, seq: int, size: int) -> None:
        self._kept.append((seq, size))
        self.size += size

    def _path(self, seq: int) -> Path:
        return self.folder / f"{seq:020d}.batch"


def left_behind(root: Path) -> Iterator[Spool]:
    """Yield what processes that have ended left in the folders of `root`, one after the other."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        # A folder without a lock is no producer's, such as that of another kind of records.
        if not (folder / LOCK).is_file():
            continue
        lock = _locked(folder)
        if lock is not None:
            spool = Spool(folder, lock)
            if spool:
                yield spool
            else:
                spool.close()


def _locked(folder: Path) -> BinaryIO | None:
    """Return the folder's lock if nobody has it."""
    try:
        lock = (folder / LOCK).open("wb")
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock
