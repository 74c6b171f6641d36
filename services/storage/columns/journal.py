"""The journal before the embedded database: what was acknowledged and is not in it yet, in a file of SQLite.

DuckDB takes 20,000 rows in one transaction at half of what they cost in ten, and stands still for half a second when it
makes a checkpoint. So batches become durable here, which takes a millisecond, and go on in groups (flusher.py).

One process at a time, which whoever opens it has seen to; one thread at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mesh.errors import StartError
from services.storage.columns.base import StorageError, TableSchema
from services.storage.columns.rows import Batch

# "MSHJ": tells our files from those of others.
APPLICATION_ID = 0x4D53484A
FORMAT = 1
# Batches are large and alone: large pages cost a third of small ones (0.6 and 1.6 µs a log record, measured).
_PAGE_BYTES = 32 << 10
_WAL_BYTES = 16 << 20

_PRAGMAS = (
    f"page_size = {_PAGE_BYTES}",
    "journal_mode = WAL",
    "synchronous = FULL",
    f"wal_autocheckpoint = {_WAL_BYTES // _PAGE_BYTES}",
    f"journal_size_limit = {_WAL_BYTES}",
    "secure_delete = OFF",
    "locking_mode = EXCLUSIVE",
)


@dataclass(frozen=True, slots=True)
class Frame:
    """A batch in the journal, or on its way from there to the database."""

    number: int
    batch: Batch


class Journal:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        # Of the frame that was written last.
        self._last = 0

    def open(self, done: int) -> None:
        """Open or make the file; frames up to `done` are in the database. Raises `StartError`."""
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._prepare(done)
        except (sqlite3.Error, OSError) as error:
            self._let_go()
            raise StartError(f"the telemetry journal {self._path} cannot be used: {error}") from error

    def load(self, schemas: Mapping[str, TableSchema]) -> Iterator[Frame]:
        """Yield what is in it, in order; `StartError` if it cannot be read."""
        rows = self._opened.execute("SELECT number, producer, seq, after_seq, names, rows FROM frame ORDER BY number")
        try:
            for number, producer, seq, after, names, data in rows:
                tables = _tables(schemas, json.loads(names), data)
                size = sum(table.nbytes for table in tables.values())
                count = sum(table.num_rows for table in tables.values())
                yield Frame(number, Batch(tables, producer, seq, after, size, count))
        except (sqlite3.Error, pa.ArrowException, ValueError) as error:
            raise StartError(f"the telemetry journal {self._path} cannot be read: {error}") from error

    def append(self, batches: Sequence[Batch], done: int) -> list[Frame]:
        """Make the batches durable, and forget those up to the frame `done`, which are in the database.

        Raises `StorageError`.
        """
        frames = [Frame(number, batch) for number, batch in enumerate(batches, self._last + 1)]
        db = self._opened
        try:
            db.execute("BEGIN IMMEDIATE")
            db.execute("DELETE FROM frame WHERE number <= ?", (done,))
            db.executemany("INSERT INTO frame VALUES (?, ?, ?, ?, ?, ?)", map(_row, frames))
            db.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(sqlite3.Error):  # a full disk may have ended the transaction already
                db.execute("ROLLBACK")
            raise StorageError(f"the telemetry journal cannot be written: {error}") from error
        self._last += len(frames)
        return frames

    def close(self, done: int) -> None:
        """Forget what is in the database up to the frame `done`, and let go of the file."""
        with contextlib.suppress(sqlite3.Error, StorageError):  # then it is forgotten when it is opened again
            self.append((), done)
        self._let_go()

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            raise StorageError("the telemetry journal is closed")
        return self._db

    def _prepare(self, done: int) -> None:
        db = self._opened
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is no journal of a mesh: move it away")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise sqlite3.DatabaseError(f"a later version of the mesh wrote it (format {version}): use that one")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT}")
        db.execute(
            "CREATE TABLE IF NOT EXISTS frame (number INTEGER PRIMARY KEY, producer TEXT, seq INTEGER,"
            " after_seq INTEGER, names TEXT, rows BLOB)"
        )
        db.execute("DELETE FROM frame WHERE number <= ?", (done,))
        (last,) = db.execute("SELECT max(number) FROM frame").fetchone()
        # The database's word counts too: the journal may be new.
        self._last = max(done, last or 0)

    def _let_go(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None


def _row(frame: Frame) -> tuple[int, str, int, int | None, str, object]:
    batch, sink = frame.batch, pa.BufferOutputStream()
    for table in batch.tables.values():
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    data = memoryview(sink.getvalue())
    return frame.number, batch.producer, batch.seq, batch.after, json.dumps(list(batch.tables)), data


def _tables(schemas: Mapping[str, TableSchema], names: Sequence[str], data: bytes) -> dict[str, pa.Table]:
    """Return the tables of a frame in their schemas of today: a version before may have written it."""
    source, found = pa.BufferReader(data), {}
    for name in names:
        table = pa.ipc.open_stream(source).read_all()
        if name in schemas:
            found[name] = _of_today(schemas[name], table)
    return found


def _of_today(schema: TableSchema, table: pa.Table) -> pa.Table:
    if table.column_names == list(schema.columns):
        return table
    known = set(table.column_names)
    columns = [
        table.column(name) if name in known else pa.nulls(table.num_rows, kind.arrow)
        for name, kind in schema.columns.items()
    ]
    return pa.table(columns, names=list(schema.columns))
