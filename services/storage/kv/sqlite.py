"""The SQLite file behind the embedded store: the durable copy of its state and history.

One process at a time, one thread at a time. What is written is on disk when `write` returns (WAL, synchronous=FULL).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

from mesh.errors import StartError
from services.storage.kv.base import Batch, Event, EventKind, KeyValue
from services.storage.kv.state import Prepared

# "MESH": tells our files from those of others.
APPLICATION_ID = 0x4D455348
FORMAT = 1
ROWS_A_STEP = 64

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE kv (
    key TEXT PRIMARY KEY, value BLOB, create_revision INTEGER, mod_revision INTEGER, lease INTEGER
) WITHOUT ROWID;
CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl REAL, expires_ns INTEGER);
CREATE TABLE history (
    revision INTEGER, position INTEGER, kind INTEGER, key TEXT,
    value BLOB, create_revision INTEGER, lease INTEGER,
    prev_value BLOB, prev_create_revision INTEGER, prev_mod_revision INTEGER, prev_lease INTEGER,
    PRIMARY KEY (revision, position)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class StoredLease:
    lease_id: int
    ttl: float
    # Wall-clock time, when it was granted; not looked at any more.
    expires_ns: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything in the file."""

    cluster_id: str
    revision: int
    compact_revision: int
    kvs: list[KeyValue]
    leases: list[StoredLease]
    history: list[Batch]


class SqliteLog:
    """An open file, locked against every other process."""

    def __init__(self, path: Path) -> None:
        """Open or create the file at `path`.

        Raises:
            StartError: it cannot be used; the message says what to do.

        """
        self._path = path
        self._lock_fd = _lock(path)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._prepare_file()
            except BaseException:
                self._db.close()
                raise
        except BaseException as error:
            os.close(self._lock_fd)
            if isinstance(error, sqlite3.Error):
                raise _unusable(path, error) from error
            raise

    def load(self) -> Loaded:
        """Read the whole file."""
        try:
            meta = dict(self._rows("SELECT name, value FROM meta"))
            return Loaded(
                cluster_id=meta["cluster_id"],
                revision=meta["revision"],
                compact_revision=meta["compact_revision"],
                kvs=[
                    KeyValue(*row)
                    for row in self._rows("SELECT key, value, create_revision, mod_revision, lease FROM kv")
                ],
                leases=[StoredLease(*row) for row in self._rows("SELECT id, ttl, expires_ns FROM lease")],
                history=list(_batches(self._rows("SELECT * FROM history ORDER BY revision, position"))),
            )
        except (sqlite3.Error, KeyError) as error:
            raise _unusable(self._path, error) from error

    def write(self, prepared: Prepared, leases: Mapping[int, tuple[float, int]]) -> None:
        """Write in one transaction the effects of requests, and `leases` as id → (ttl, expires_ns).

        Raises `sqlite3.Error` when it could not; then nothing has been written.
        """
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            self._write_effects(prepared)
            db.executemany(
                "INSERT INTO lease VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET ttl = excluded.ttl,"
                " expires_ns = excluded.expires_ns",
                ((lease_id, ttl, expires_ns) for lease_id, (ttl, expires_ns) in leases.items()),
            )
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # some failures, a full disk among them, may have ended it already
                db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._db.close()
        os.close(self._lock_fd)

    def _write_effects(self, prepared: Prepared) -> None:
        db = self._db
        db.executemany("DELETE FROM kv WHERE key = ?", ((key,) for key, kv in prepared.kvs.items() if kv is None))
        live = [
            (kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.lease)
            for kv in prepared.kvs.values()
            if kv is not None
        ]
        self._insert("INSERT OR REPLACE INTO kv", live)
        ended = ((lease_id,) for lease_id, ttl in prepared.leases.items() if ttl is None)
        db.executemany("DELETE FROM lease WHERE id = ?", ended)
        self._insert("INSERT INTO history", list(_history(prepared.batches)))
        db.execute("DELETE FROM history WHERE revision <= ?", (prepared.compact_revision,))
        db.executemany(
            "UPDATE meta SET value = ? WHERE name = ?",
            ((prepared.revision, "revision"), (prepared.compact_revision, "compact_revision")),
        )

    def _insert(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Insert rows, many in one step where there are many: after each step this thread waits for its turn."""
        if not rows:
            return
        values = f"({', '.join('?' * len(rows[0]))})"
        whole = len(rows) - len(rows) % ROWS_A_STEP
        for first in range(0, whole, ROWS_A_STEP):
            together = list(chain.from_iterable(rows[first : first + ROWS_A_STEP]))
            self._db.execute(f"{statement} VALUES {', '.join([values] * ROWS_A_STEP)}", together)
        self._db.executemany(f"{statement} VALUES {values}", rows[whole:])

    def _prepare_file(self) -> None:
        db = self._db
        (application_id,), (version,) = self._rows("PRAGMA application_id")[0], self._rows("PRAGMA user_version")[0]
        (tables,) = self._rows("SELECT count(*) FROM sqlite_schema")[0]
        if tables and application_id != APPLICATION_ID:
            raise StartError(f"{self._path} is not a database of the mesh: move it away, or use another data directory")
        if tables and version != FORMAT:
            raise StartError(
                f"{self._path} has format {version}, this meshplane reads {FORMAT}: install the meshplane that wrote it"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        # A burst must not leave a huge WAL behind for good.
        db.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        if not tables:
            db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            meta = (("cluster_id", uuid.uuid4().hex), ("revision", 0), ("compact_revision", 0))
            db.executemany("INSERT INTO meta VALUES (?, ?)", meta)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {FORMAT}")
            db.execute("COMMIT")
        elif (damage := self._rows("PRAGMA quick_check(1)")[0][0]) != "ok":
            raise sqlite3.DatabaseError(damage)

    def _rows(self, sql: str) -> list[tuple]:  # type: ignore[type-arg] # rows are as the statement says
        with closing(self._db.execute(sql)) as cursor:
            return cursor.fetchall()


def _history(batches: Iterable[Batch]) -> Iterator[tuple[object, ...]]:
    for batch in batches:
        for position, event in enumerate(batch.events):
            kv, prev = event.kv, event.prev
            yield (
                *(batch.revision, position, event.kind.value, event.key),
                *((kv.value, kv.create_revision, kv.lease) if kv else (None, 0, 0)),
                *((prev.value, prev.create_revision, prev.mod_revision, prev.lease) if prev else (None, 0, 0, 0)),
            )


def _batches(rows: Iterable[tuple]) -> Iterator[Batch]:  # type: ignore[type-arg]
    for revision, group in groupby(rows, key=lambda row: row[0]):
        yield Batch(revision, tuple(_event(row) for row in group))


def _event(row: tuple) -> Event:  # type: ignore[type-arg]
    revision, _, kind, key, value, created, lease, prev_value, prev_created, prev_modified, prev_lease = row
    kv = None if value is None else KeyValue(key, value, created, revision, lease)
    prev = None if prev_value is None else KeyValue(key, prev_value, prev_created, prev_modified, prev_lease)
    return Event(EventKind(kind), key, kv, prev)


def _lock(path: Path) -> int:
    """Return a descriptor that holds the lock beside `path` for as long as it, or the process, lives."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Lease ids are secrets: nobody else reads the file. (What SQLite puts beside it has the same mode.)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise StartError(
            f"the data directory {path.parent} cannot be written ({reason}): mend it, or choose another"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise StartError(
            f"another control process uses the data directory {path.parent}: stop it, or choose another one "
            "with --data-dir"
        ) from error
    return fd


def _unusable(path: Path, error: Exception) -> StartError:
    return StartError(
        f"{path} cannot be used ({error}): restore it from a copy, or move it away to start over with an empty one"
    )
