"""The file of the embedded driver: DuckDB's, of which this process is the only user.

A period is a table, and so is the index of its keys: for each key and transaction the rows, first and last, between
which the key's rows lie. It is small because it is kept by a hash of the key, and is dropped with its period.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from mesh.errors import StartError
from services.storage.columns.base import (
    ROW_ID,
    BatchError,
    ColumnsError,
    FullError,
    Options,
    Period,
    QueryError,
    Retained,
    Scope,
    StorageError,
    TableSchema,
    Type,
)
from services.storage.columns.driver import Reader
from services.storage.columns.rows import Batch, laid_out, normal
from services.storage.columns.sql import Ranges, empty_name, expand, merged, overlaps

_TYPES: Mapping[Type, str] = {
    Type.BIGINT: "BIGINT",
    Type.DOUBLE: "DOUBLE",
    Type.BOOLEAN: "BOOLEAN",
    Type.TEXT: "VARCHAR",
    Type.JSON: "JSON",
    Type.TEXT_LIST: "VARCHAR[]",
    Type.BIGINT_LIST: "BIGINT[]",
    Type.DOUBLE_LIST: "DOUBLE[]",
}

# The row of `mesh_marks` that has the last row id instead of a producer's sequence number.
_ROWS = ""
# One large checkpoint now and then costs less than many small ones (measured: 128 MB).
_CHECKPOINT = "128MB"
# A query that does not fit in memory may use so much of the disk.
_TEMPORARY = "4GB"


class DuckDbFile:
    """All but `reader` and `cursor` are called by one thread at a time."""

    def __init__(self, path: Path, schemas: Mapping[str, TableSchema], options: Options) -> None:
        self.schemas = schemas
        self._path = path
        self._options = options
        self._marks: dict[str, int] = {}
        # Of the journal: the last one that is in here.
        self.frame = 0
        # Read by the reader threads, and replaced, never changed.
        self.periods: frozenset[Period] = frozenset()
        # Goes up with every connection to the file: readers of an older one connect anew.
        self.generation = 0

    def open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connect()
            self._make_tables()
        except (duckdb.Error, OSError) as error:
            text = " ".join(str(error).split())
            hint = "another process has it open" if "lock" in text.lower() else text
            raise StartError(f"the telemetry store {self._path} cannot be used: {hint}") from error

    def put(self, batches: Sequence[Batch], frame: int) -> None:
        """Store batches of the journal, which end with `frame`, in one transaction.

        Raises:
            BatchError: one of them is malformed; nothing is written, and trying each alone tells which.
            StorageError: it could not be written.

        """
        inserts = laid_out(self.schemas, batches, self.last_row)
        marks = {batch.producer: batch.seq for batch in batches if batch.producer}
        marks[_ROWS] = self.last_row + sum(batch.rows for batch in batches)
        made = frozenset(inserts) - self.periods
        with self._transaction():
            for period in made:
                self._make(period)
            for period, rows in inserts.items():
                self._insert(period, rows)
            self._put_marks(marks)
            self._con.execute("UPDATE mesh_journal SET frame = $1", [frame])
        self._marks |= marks
        self.frame = frame
        self.periods |= made

    @property
    def marks(self) -> Mapping[str, int]:
        """The last sequence number stored of each producer."""
        return {producer: seq for producer, seq in self._marks.items() if producer != _ROWS}

    @property
    def last_row(self) -> int:
        return self._marks.get(_ROWS, 0)

    def retain(self, now_ns: int) -> Retained:
        timed = sorted((one for one in self.periods if one.length), key=self._end)
        old = [one for one in timed if self._end(one) < now_ns - round(self.schemas[one.table].max_age * 1e9)]
        self._drop(old)
        dropped, left = old, [one for one in timed if one not in old]
        while (used := self._bytes_used()) > self._options.max_bytes and left:
            self._drop([left[0]])
            dropped.append(left.pop(0))
        oldest = now_ns - round(self._options.producer_age * 1e9)
        with self._transaction():
            self._con.execute("UPDATE mesh_marks SET at_ns = $1 WHERE at_ns = 0", [now_ns])
            gone = self._con.execute(
                "DELETE FROM mesh_marks WHERE at_ns < $1 AND producer <> $2 RETURNING producer", [oldest, _ROWS]
            ).fetchall()
        for (producer,) in gone:
            self._marks.pop(producer, None)
        return Retained(tuple(dropped), used)

    def reader(self) -> Reader:
        return DuckDbReader(self)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        return self._con.cursor()

    def close(self) -> None:
        with contextlib.suppress(duckdb.Error):  # what was acknowledged is on disk
            self._con.close()

    def _connect(self) -> None:
        options = self._options
        self._con = duckdb.connect(
            self._path,
            config={
                "memory_limit": f"{options.memory_mb}MB",
                "threads": options.threads,
                "checkpoint_threshold": _CHECKPOINT,
                "max_temp_directory_size": _TEMPORARY,
                # Queries are ours alone; were one not, it should not reach the machine.
                "enable_external_access": False,
                "python_enable_replacements": False,
                "lock_configuration": True,
            },
        )
        # Logs are as private as the rest of the data folder.
        self._path.chmod(0o600)
        self.generation += 1

    def _make_tables(self) -> None:
        con = self._con
        con.execute("CREATE TABLE IF NOT EXISTS mesh_marks (producer VARCHAR PRIMARY KEY, seq BIGINT, at_ns BIGINT)")
        con.execute("CREATE TABLE IF NOT EXISTS mesh_journal (frame BIGINT)")
        con.execute("INSERT INTO mesh_journal SELECT 0 WHERE NOT EXISTS (FROM mesh_journal)")
        for schema in self.schemas.values():
            con.execute(f"CREATE TABLE IF NOT EXISTS {empty_name(schema.name)} ({_columns(schema)})")
        names = [name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        self.periods = frozenset(
            period for period in map(Period.named, names) if period is not None and period.table in self.schemas
        )
        for period in self.periods:  # columns of a later version
            for name, kind in self.schemas[period.table].columns.items():
                con.execute(f"ALTER TABLE {period.name} ADD COLUMN IF NOT EXISTS {name} {_TYPES[kind]}")
        self._marks = dict(con.execute("SELECT producer, seq FROM mesh_marks").fetchall())
        ((self.frame,),) = con.execute("SELECT frame FROM mesh_journal").fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        con = self._con
        try:
            con.begin()
            yield
            con.commit()
        except BaseException as error:
            with contextlib.suppress(duckdb.Error):  # it may have ended the transaction already
                con.rollback()
            if isinstance(error, duckdb.FatalException):  # such as a full disk: this connection is of no more use
                self._reconnect()
            if isinstance(error, duckdb.DataError | UnicodeDecodeError):
                raise BatchError(_line(error)) from error
            if isinstance(error, duckdb.Error | OSError):
                raise StorageError(f"the telemetry store cannot be written: {_line(error)}") from error
            raise
        finally:
            with contextlib.suppress(duckdb.Error):  # of the one that was reconnected, say
                con.unregister("batch")
                con.unregister("marks")

    def _reconnect(self) -> None:
        with contextlib.suppress(duckdb.Error):
            self._con.close()
        with contextlib.suppress(duckdb.Error, OSError):  # then the next write fails as this one
            self._connect()
            self._make_tables()

    def _make(self, period: Period) -> None:
        schema = self.schemas[period.table]
        self._con.execute(f"CREATE TABLE {period.name} ({_columns(schema)})")
        for key in schema.keys:
            self._con.execute(
                f"CREATE TABLE {index_name(period, key)} (hash UBIGINT, first_row BIGINT, last_row BIGINT)"
            )

    def _insert(self, period: Period, rows: pa.Table) -> None:
        con, names = self._con, ", ".join(rows.column_names)
        con.register("batch", rows)
        con.execute(f"INSERT INTO {period.name} ({names}) SELECT {names} FROM batch")
        for key in self.schemas[period.table].keys:
            con.execute(
                f"INSERT INTO {index_name(period, key)} SELECT md5_number_lower({key}), min({ROW_ID}), max({ROW_ID})"
                f" FROM batch WHERE {key} <> '' GROUP BY {key}"
            )

    def _put_marks(self, marks: Mapping[str, int]) -> None:
        if marks.keys() == {_ROWS} == self._marks.keys() & {_ROWS}:  # half of the time of what follows
            self._con.execute("UPDATE mesh_marks SET seq = $1, at_ns = 0 WHERE producer = $2", [marks[_ROWS], _ROWS])
            return
        self._con.register("marks", pa.table({"producer": list(marks), "seq": list(marks.values())}))
        self._con.execute(
            "INSERT INTO mesh_marks SELECT producer, seq, 0 FROM marks"
            " ON CONFLICT DO UPDATE SET seq = excluded.seq, at_ns = 0"
        )

    def _drop(self, periods: Sequence[Period]) -> None:
        if not periods:
            return
        with self._transaction():
            for period in periods:
                self._con.execute(f"DROP TABLE {period.name}")
                for key in self.schemas[period.table].keys:
                    self._con.execute(f"DROP TABLE {index_name(period, key)}")
        self.periods -= frozenset(periods)
        with contextlib.suppress(duckdb.Error):  # a reader may be in the way: then later
            self._con.execute("CHECKPOINT")

    def _bytes_used(self) -> int:
        block_size, used, wal = self._con.execute(
            "SELECT block_size, used_blocks, wal_size FROM pragma_database_size()"
        ).fetchall()[0]
        return int(block_size) * int(used) + _bytes(wal)

    def _end(self, period: Period) -> int:
        """Return when the period ends, in nanoseconds."""
        return (period.start + period.length) * self.schemas[period.table].time_unit_ns


class DuckDbReader(Reader):
    def __init__(self, file: DuckDbFile) -> None:
        self._file = file
        self._generation = file.generation
        self._cursor = file.cursor()

    def query(self, sql: str, params: Sequence[object], scopes: Mapping[str, Scope]) -> pa.Table:
        if self._generation != self._file.generation:
            self._generation, self._cursor = self._file.generation, self._file.cursor()
        try:
            try:
                return self._run(sql, params, scopes)
            except duckdb.CatalogException:  # a period has just been dropped; or the query is wrong, then so again
                return self._run(sql, params, scopes)
        except duckdb.Error as error:
            raise _query_error(error) from error
        except UnicodeDecodeError as error:  # DuckDB quotes the query in its message, and may cut a character in two
            raise QueryError("the query makes no sense to the database") from error

    def interrupt(self) -> None:
        self._cursor.interrupt()

    def close(self) -> None:
        with contextlib.suppress(duckdb.Error):
            self._cursor.close()

    def _run(self, sql: str, params: Sequence[object], scopes: Mapping[str, Scope]) -> pa.Table:
        file = self._file
        expanded, values = expand(sql, params, scopes, file.schemas, file.periods, self._find)
        relation: Any = self._cursor.sql(expanded, params=values or None)
        return normal(relation.to_arrow_table())

    def _find(self, scope: Scope) -> Ranges:
        """Return where the rows of a scope's key lie, or may: two keys can have one hash."""
        if scope.key is None:
            return {}
        column = scope.key[0]
        periods = [one for one in self._file.periods if one.table == scope.table and overlaps(one, scope)]
        if not periods or not scope.values:
            return {}
        hashes = self._cursor.execute("SELECT md5_number_lower(unnest($1))", [list(scope.values)]).fetchall()
        wanted = ", ".join(str(int(hashed)) for (hashed,) in hashes)
        selects = (
            f"SELECT {number} AS place, first_row, last_row FROM {index_name(period, column)} WHERE hash IN ({wanted})"
            for number, period in enumerate(periods)
        )
        found: dict[Period, list[tuple[int, int]]] = {}
        for place, first, last in self._cursor.execute(" UNION ALL ".join(selects)).fetchall():
            found.setdefault(periods[place], []).append((first, last))
        return {period: merged(ranges) for period, ranges in found.items()}


def index_name(period: Period, key: str) -> str:
    return f"{period.name}_by_{key}"


def _columns(schema: TableSchema) -> str:
    columns = [f"{name} {_TYPES[kind]}" for name, kind in schema.columns.items()]
    return ", ".join((*columns, f"{ROW_ID} BIGINT"))


def _bytes(text: str) -> int:
    """Read DuckDB's way of writing a size, such as "1.2 MiB"."""
    number, unit = text.split()
    power = ("bytes", "KiB", "MiB", "GiB", "TiB").index(unit)
    return round(float(number) * 1024.0**power)


def _query_error(error: duckdb.Error) -> ColumnsError:
    if isinstance(error, duckdb.OutOfMemoryException):
        return FullError(f"the query needs more memory than there is: narrow its time range ({_line(error)})")
    if isinstance(error, duckdb.FatalException | duckdb.IOException | duckdb.ConnectionException):
        return StorageError(f"the telemetry store cannot be read: {_line(error)}")
    return QueryError(_line(error))


def _line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
