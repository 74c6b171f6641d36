"""The embedded driver: a journal, in which batches become durable, and DuckDB, which takes them in groups.

A query waits until the database has what was acknowledged before it and may be of its scopes: so it sees what it would
with any driver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from mesh.errors import StartError
from services.storage.columns.base import (
    Appended,
    ColumnsError,
    Options,
    Retained,
    Scope,
    SequenceError,
    TableSchema,
)
from services.storage.columns.driver import Driver, Reader
from services.storage.columns.duckdb_file import DuckDbFile
from services.storage.columns.flusher import Flusher
from services.storage.columns.journal import Journal
from services.storage.columns.json_check import JsonCheck
from services.storage.columns.rows import Batch, judge, touches


class DuckDbDriver(Driver):
    """Use in a `ThreadedStore`."""

    name: ClassVar[str] = "duckdb"
    exclusive: ClassVar[bool] = True

    def __init__(self, path: Path, schemas: Mapping[str, TableSchema], options: Options) -> None:
        self.schemas = schemas
        self._file = DuckDbFile(path, schemas, options)
        self._journal = Journal(path.with_name(f"{path.name}.journal"))
        self._aside = path.with_name(f"{path.name}.refused")
        self._options = options
        # With what the journal has.
        self._marks: dict[str, int] = {}
        self._last_row = 0

    def open(self) -> None:
        self._file.open()
        try:
            self._journal.open(self._file.frame)
            self._flusher = Flusher(self._file, self._options.queue_bytes, self._aside)
            for frame in self._journal.load(self.schemas):
                self._flusher.add([frame])
            self._flusher.start()
            self._flusher.settle()
            self._check = JsonCheck(self.schemas)
        except BaseException:
            self._journal.close(self._file.frame)
            self._file.close()
            raise
        if self._flusher.failure is not None:
            error = self._flusher.failure
            self.close()
            raise StartError(str(error)) from error
        self._marks, self._last_row = dict(self._file.marks), self._file.last_row

    def write(self, group: Sequence[Batch]) -> list[Appended | SequenceError]:
        judged = judge(group, self._marks, self._last_row)
        if judged.fresh:
            self._check.check(judged.fresh)
            self._flusher.make_room()
            self._flusher.add(self._journal.append(judged.fresh, self._flusher.done))
        self._marks |= judged.marks
        self._last_row = judged.last_row
        return judged.outcomes

    def mark(self, producer: str) -> int | None:
        return self._marks.get(producer)

    def last_row(self) -> int:
        return self._last_row

    def retain(self, now_ns: int) -> Retained:
        self._flusher.settle()
        with self._flusher.paused():
            retained = self._file.retain(now_ns)
        if self._flusher.failure is None:  # producers that are forgotten
            self._marks = dict(self._file.marks)
        return retained

    def reader(self) -> Reader:
        return _Reader(self.schemas, self._flusher, self._file.reader())

    @property
    def stats(self) -> Mapping[str, float]:
        return vars(self._flusher.counters) | {"journal_bytes": self._flusher.waiting_bytes}

    def close(self) -> None:
        self._flusher.close()
        self._journal.close(self._flusher.done)
        self._check.close()
        self._file.close()


class _Reader(Reader):
    def __init__(self, schemas: Mapping[str, TableSchema], flusher: Flusher, reader: Reader) -> None:
        self._schemas = schemas
        self._flusher = flusher
        self._reader = reader
        self._interrupted = False

    def query(self, sql: str, params: Sequence[object], scopes: Mapping[str, Scope]) -> pa.Table:
        self._interrupted = False
        if scopes:
            self._flusher.settle(
                lambda batch: any(touches(self._schemas, batch, scope) for scope in scopes.values()),
                lambda: self._interrupted,
            )
        if self._interrupted:
            raise ColumnsError("nobody waits for it any more")
        return self._reader.query(sql, params, scopes)

    def interrupt(self) -> None:
        self._interrupted = True
        self._flusher.look()
        self._reader.interrupt()

    def close(self) -> None:
        self._reader.close()
