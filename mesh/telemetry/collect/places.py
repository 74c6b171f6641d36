"""Where the collector was in each file, kept on disk: a file is known by its inode and by how it begins."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mesh.errors import StartError

# How much of a file's begin tells it from others.
FINGERPRINT_BYTES = 256
# Places of files that are no more are kept for so many others.
MAX_PLACES = 10_000
SAVE_SECONDS = 0.5
STDIN = "-"


@dataclass(slots=True)
class Place:
    """One file, and how far it has been sent."""

    path: str
    inode: int
    # Of the first `head` bytes.
    fingerprint: str
    head: int
    # Acknowledged up to here: bytes, or entries of a journal.
    offset: int
    # The name under which its events were sent; the sink knows by it what it has.
    producer: str
    # Of a journal: where it was at `offset`.
    cursor: str = ""

    @classmethod
    def new(cls, path: str, fd: int) -> Place:
        head, fingerprint = fingerprint_of(fd)
        return cls(path, os.fstat(fd).st_ino, fingerprint, head, 0, f"collect-{secrets.token_hex(8)}")

    def fits(self, fd: int) -> bool:
        """Tell whether the open file is this one: it begins so, and has not become shorter."""
        stat = os.fstat(fd)
        if stat.st_size < max(self.offset, self.head):
            return False
        return fingerprint_of(fd, self.head)[1] == self.fingerprint

    def grow(self, fd: int) -> None:
        """Take note of more of the file's begin, if it was short."""
        if self.head < FINGERPRINT_BYTES:
            self.head, self.fingerprint = fingerprint_of(fd)


def fingerprint_of(fd: int, head: int = FINGERPRINT_BYTES) -> tuple[int, str]:
    """Return how many bytes the begin of the file has, at most `head`, and a hash of them."""
    data = os.pread(fd, head, 0)
    return len(data), hashlib.blake2b(data, digest_size=16).hexdigest()


class Places:
    """The places of all files, in one small file that is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        """Read what is kept at `path`.

        Raises:
            StartError: it is no file of the collector, or cannot be read.

        """
        self._path = path
        self._places: list[Place] = []
        self._saved_at = 0.0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = path.with_name(path.name + ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartError(f"another mesh collect uses {path}: give this one its own with --places FILE") from error
        except OSError as error:
            raise StartError(f"the places file {path} cannot be used: {error.strerror}") from error
        try:
            if path.exists():
                self._places = [Place(**one) for one in json.loads(path.read_text())["places"]]
        except OSError as error:
            raise StartError(f"the places file {path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StartError(f"{path} is no places file of the collector: move it away, or name another") from error

    def find(self, fd: int) -> Place | None:
        """Return the place of the open file if it is known, whatever it was called before."""
        inode = os.fstat(fd).st_ino
        return next((one for one in reversed(self._places) if one.inode == inode and one.fits(fd)), None)

    def last(self, path: str) -> Place | None:
        """Return the last place that is known under this name, whether or not it is the same file."""
        return next((one for one in reversed(self._places) if one.path == path), None)

    def add(self, place: Place) -> None:
        """Keep a new place. Its producer must not be used before it is on disk."""
        self._places.append(place)
        del self._places[:-MAX_PLACES]
        self.save()

    def moved(self) -> None:
        """Take note that a place has moved on. It is written now and then: what is sent twice is stored once."""
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write all places; what was there stays until they are on disk."""
        temporary = self._path.with_name(self._path.name + ".tmp")
        with temporary.open("w") as file:
            json.dump({"places": [asdict(one) for one in self._places]}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        self._saved_at = time.monotonic()

    def close(self) -> None:
        self.save()
        self._lock.close()
