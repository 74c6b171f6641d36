"""Takes what is in the journal into the embedded database, in large groups, by a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from pyarrow import feather

from services.storage.columns.base import BatchError, StorageError
from services.storage.columns.duckdb_file import DuckDbFile
from services.storage.columns.journal import Frame
from services.storage.columns.rows import Batch

# What waits goes into the database when it is so much, by Arrow's count, or so old, or when somebody asks for it.
FLUSH_BYTES = 4 << 20
FLUSH_SECONDS = 1.0
# Of one transaction. It takes about half a second.
GROUP_BYTES = 32 << 20
# After a failure.
AGAIN_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass
class Counters:
    """What has been done since the start."""

    flushes: int = 0
    flush_seconds: float = 0.0
    flush_failures: int = 0
    # Put aside: acknowledged, and yet the database does not take them.
    batches_aside: int = 0


class Flusher:
    """`add` and `close` belong to one thread, `settle` to any."""

    def __init__(self, file: DuckDbFile, room: int, aside: Path) -> None:
        """Make one in which `room` bytes may wait; `aside` is the folder for what the database refuses for good."""
        self._file = file
        self._room = room
        self._enough = min(FLUSH_BYTES, room // 2)
        self._aside = aside
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        # Held while the database is written.
        self._writing = threading.Lock()
        self._added = self.done = file.frame
        # Up to which frame somebody waits.
        self._wanted = 0
        self._oldest = 0.0
        self._failure: StorageError | None = None
        self._closing = False
        self.waiting_bytes = 0
        self.counters = Counters()
        self._thread = threading.Thread(target=self._run, name="columns-flush", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def failure(self) -> StorageError | None:
        """Why the database cannot be written at present."""
        return self._failure

    def make_room(self) -> None:
        """Wait until more may be added; `StorageError` if the database cannot be written."""
        with self._changed:
            self._changed.wait_for(lambda: self.waiting_bytes < self._room or self._failure is not None)
            if self._failure is not None and self.waiting_bytes >= self._room:
                raise self._failure

    def add(self, frames: Sequence[Frame]) -> None:
        """Have what is durable in the journal taken into the database."""
        with self._changed:
            if not self._frames:
                self._oldest = time.monotonic()
            self._frames += frames
            self._added = frames[-1].number
            self.waiting_bytes += sum(frame.batch.size for frame in frames)
            self._changed.notify_all()

    def settle(
        self, matters: Callable[[Batch], bool] = lambda _: True, given_up: Callable[[], bool] = lambda: False
    ) -> None:
        """Wait until the database has all that was added and `matters`.

        Or until it cannot be written, or `given_up`, of which `look` tells.
        """
        with self._changed:
            waiting = tuple(self._frames)
        wanted = next((frame.number for frame in reversed(waiting) if matters(frame.batch)), 0)
        with self._changed:
            if self.done >= wanted:
                return
            self._wanted = max(self._wanted, wanted)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.done >= wanted or self._failure is not None or given_up())

    def look(self) -> None:
        """Have those who settle look whether they give up."""
        with self._changed:
            self._changed.notify_all()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have the database for oneself."""
        with self._writing:
            yield

    def close(self) -> None:
        """Take what is left into the database, or leave it in the journal if it cannot be written."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due():
                    self._changed.wait(self._oldest + FLUSH_SECONDS - time.monotonic() if self._frames else None)
                if not self._frames:
                    return
                group = self._next()
            if self._flush(group):
                continue
            with self._changed:
                if self._closing:
                    return
                self._changed.wait_for(lambda: self._closing, AGAIN_SECONDS)

    def _due(self) -> bool:
        return self._closing or bool(
            self._frames
            and (
                self.waiting_bytes >= self._enough
                or self._wanted > self.done
                or time.monotonic() >= self._oldest + FLUSH_SECONDS
            )
        )

    def _next(self) -> list[Frame]:
        group, size = [self._frames[0]], self._frames[0].batch.size
        # Somebody waits: for these, and not for those that have come since.
        most = self._wanted if self._wanted > self.done and not self._closing else self._added
        for place in range(1, len(self._frames)):
            frame = self._frames[place]
            size += frame.batch.size
            if size > GROUP_BYTES or frame.number > most:
                break
            group.append(frame)
        return group

    def _flush(self, group: Sequence[Frame]) -> bool:
        """Write a group, and tell whether that went well."""
        began = time.monotonic()
        failure: StorageError | None
        try:
            with self._writing:
                self._put(group)
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread must go on
            failure = error if isinstance(error, StorageError) else StorageError(f"it could not be written: {error!r}")
            if self._failure is None:
                _log.warning("what was acknowledged stays in the journal for now: %s", failure)
            self.counters.flush_failures += 1
        else:
            self.counters.flushes += 1
            self.counters.flush_seconds += time.monotonic() - began
            failure = None
        with self._changed:
            self._failure = failure
            # It may be there although its commit failed: the database says.
            self.done = self._file.frame
            while self._frames and self._frames[0].number <= self.done:
                self.waiting_bytes -= self._frames.popleft().batch.size
            self._oldest = time.monotonic()
            self._changed.notify_all()
        return failure is None

    def _put(self, group: Sequence[Frame]) -> None:
        try:
            self._file.put([frame.batch for frame in group], group[-1].number)
        except BatchError as error:
            if len(group) > 1:
                for frame in group:
                    self._put([frame])
                return
            self._put_aside(group[0], error)

    def _put_aside(self, frame: Frame, error: BatchError) -> None:
        """Keep a batch that was acknowledged, although the database refuses it: a fault of ours."""
        self.counters.batches_aside += 1
        try:
            self._aside.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, table in frame.batch.tables.items():
                feather.write_feather(table, str(self._aside / f"{frame.number}-{name}.arrow"))
        except (OSError, pa.ArrowException) as failure:
            raise StorageError(f"{self._aside} cannot be written: {failure}") from failure
        _log.error(
            "the database refuses a batch of %r, which is in %s now: %s", frame.batch.producer, self._aside, error
        )
        self._file.put([replace(frame.batch, tables={}, rows=0)], frame.number)
