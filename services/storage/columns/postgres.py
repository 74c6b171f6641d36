"""The driver for a PostgreSQL server, which any number of control processes may share.

Tables are as in the embedded driver, one a period, in a schema of their own; keys have B-tree indexes. Writers take
turns by the row that counts row ids: so ids grow in the order of commits, and whoever tails misses none.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import psycopg
import pyarrow as pa
from psycopg import sql as compose

from mesh.errors import StartError
from services.storage.columns.base import (
    ROW_ID,
    Appended,
    BatchError,
    ColumnsError,
    Options,
    Period,
    QueryError,
    Retained,
    Scope,
    SequenceError,
    StorageError,
    TableSchema,
    Type,
)
from services.storage.columns.driver import Driver, Reader
from services.storage.columns.rows import Batch, judge, laid_out, normal, plain
from services.storage.columns.sql import empty_name, expand

_TYPES: Mapping[Type, str] = {
    Type.BIGINT: "bigint",
    Type.DOUBLE: "double precision",
    Type.BOOLEAN: "boolean",
    Type.TEXT: "text",
    Type.JSON: "jsonb",
    Type.TEXT_LIST: "text[]",
    Type.BIGINT_LIST: "bigint[]",
    Type.DOUBLE_LIST: "double precision[]",
}

# What PostgreSQL calls its types, in Arrow's words; all others come as text.
_ARROW: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("int2", "int4", "int8"), pa.int64()),
    **dict.fromkeys(("float4", "float8"), pa.float64()),
    "bool": pa.bool_(),
    **dict.fromkeys(("int2[]", "int4[]", "int8[]"), pa.list_(pa.int64())),
    **dict.fromkeys(("float4[]", "float8[]"), pa.list_(pa.float64())),
    "text[]": pa.list_(pa.string()),
}

# The row of `mesh_marks` that has the last row id.
_ROWS = ""
_CONNECT_SECONDS = 10
# Text in PostgreSQL cannot have the character 0, and says so in JSON for its escape too.
_NUL_ESCAPE = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class PostgresDriver(Driver):
    """Use in a `ThreadedStore`."""

    name: ClassVar[str] = "postgresql"

    def __init__(self, conninfo: str, schema: str, schemas: Mapping[str, TableSchema], options: Options) -> None:
        self.schemas = schemas
        self._conninfo = conninfo
        self._schema = schema
        self._options = options
        self._con: psycopg.Connection[Any] | None = None
        # Whose tables have been checked against their schema by this process.
        self._known: set[Period] = set()

    def open(self) -> None:
        try:
            self._con = self.connect()
            self._make_tables(self._con)
        except psycopg.Error as error:
            raise StartError(f"the telemetry store on PostgreSQL cannot be used: {_line(error)}") from error

    def connect(self) -> psycopg.Connection[Any]:
        """Return a new connection that sees our tables by their bare names, and takes parameters as $1, $2."""
        con: psycopg.Connection[Any] = psycopg.connect(
            self._conninfo,
            autocommit=True,
            cursor_factory=psycopg.RawCursor,
            connect_timeout=_CONNECT_SECONDS,
            application_name="meshplane",
        )
        con.execute(compose.SQL("SET search_path TO {}").format(compose.Identifier(self._schema)))
        # JSON is text to us.
        for name in ("json", "jsonb"):
            con.adapters.register_loader(name, psycopg.types.string.TextLoader)
        return con

    def write(self, group: Sequence[Batch]) -> list[Appended | SequenceError]:
        with self._transaction() as con:
            (last_row,) = _one(con, "SELECT seq FROM mesh_marks WHERE producer = $1 FOR UPDATE", [_ROWS])
            producers = [batch.producer for batch in group if batch.producer]
            found = con.execute("SELECT producer, seq FROM mesh_marks WHERE producer = ANY($1)", [producers])
            judged = judge(group, dict(found.fetchall()), last_row)
            inserts = laid_out(self.schemas, judged.fresh, last_row)
            for period, rows in inserts.items():
                if period not in self._known:
                    self._make(con, period)
                self._copy(con, period, rows)
            marks = judged.marks | {_ROWS: judged.last_row}
            con.execute(
                "INSERT INTO mesh_marks SELECT unnest($1::text[]), unnest($2::bigint[]), 0"
                " ON CONFLICT (producer) DO UPDATE SET seq = excluded.seq, at_ns = 0",
                [list(marks), list(marks.values())],
            )
        self._known |= inserts.keys()
        return judged.outcomes

    def mark(self, producer: str) -> int | None:
        with self._transaction() as con:
            # After whatever another process is about to commit of it.
            con.execute("SELECT seq FROM mesh_marks WHERE producer = $1 FOR UPDATE", [_ROWS])
            found = con.execute("SELECT seq FROM mesh_marks WHERE producer = $1", [producer]).fetchone()
        return int(found[0]) if found is not None else None

    def last_row(self) -> int:
        with self._transaction() as con:
            return int(_one(con, "SELECT seq FROM mesh_marks WHERE producer = $1", [_ROWS])[0])

    def retain(self, now_ns: int) -> Retained:
        with self._transaction() as con:
            # One process at a time.
            con.execute("SELECT seq FROM mesh_marks WHERE producer = $1 FOR UPDATE", [_ROWS])
            sizes = {one: _size(con, one) for one in periods(con, self.schemas)}
            used = sum(sizes.values())
            dropped: list[Period] = []
            for period in sorted((one for one in sizes if one.length), key=self._end):
                too_old = self._end(period) < now_ns - round(self.schemas[period.table].max_age * 1e9)
                if (too_old or used > self._options.max_bytes) and _drop(con, period):
                    used -= sizes[period]
                    dropped.append(period)
            oldest = now_ns - round(self._options.producer_age * 1e9)
            con.execute("UPDATE mesh_marks SET at_ns = $1 WHERE at_ns = 0", [now_ns])
            con.execute("DELETE FROM mesh_marks WHERE at_ns < $1 AND producer <> $2", [oldest, _ROWS])
        self._known -= set(dropped)
        return Retained(tuple(dropped), used)

    def reader(self) -> Reader:
        return PostgresReader(self)

    def close(self) -> None:
        if self._con is not None:
            self._con.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            if self._con is None or self._con.closed or self._con.broken:
                self._con = self.connect()
            with self._con.transaction():
                yield self._con
        except psycopg.DataError as error:
            raise BatchError(_line(error)) from error
        except psycopg.Error as error:
            # Another process may have dropped a table that we knew.
            self._known.clear()
            raise StorageError(f"the telemetry store cannot be written: {_line(error)}") from error

    def _make_tables(self, con: psycopg.Connection[Any]) -> None:
        with con.transaction():
            # Two processes that start at once would both find the schema missing.
            con.execute("SELECT pg_advisory_xact_lock(hashtext($1))", [f"meshplane {self._schema}"])
            con.execute(compose.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(compose.Identifier(self._schema)))
            con.execute(
                "CREATE TABLE IF NOT EXISTS mesh_marks"
                ' (producer text COLLATE "C" PRIMARY KEY, seq bigint NOT NULL, at_ns bigint NOT NULL)'
            )
            con.execute("INSERT INTO mesh_marks VALUES ($1, 0, 0) ON CONFLICT DO NOTHING", [_ROWS])
            for schema in self.schemas.values():
                con.execute(f"CREATE TABLE IF NOT EXISTS {empty_name(schema.name)} ({_columns(schema)})")
            for period in periods(con, self.schemas):  # columns of a later version
                for name, kind in self.schemas[period.table].columns.items():
                    con.execute(f"ALTER TABLE {period.name} ADD COLUMN IF NOT EXISTS {name} {_TYPES[kind]}")

    def _make(self, con: psycopg.Connection[Any], period: Period) -> None:
        schema = self.schemas[period.table]
        con.execute(f"CREATE TABLE IF NOT EXISTS {period.name} ({_columns(schema)})")
        con.execute(f"CREATE INDEX IF NOT EXISTS {period.name}_rows ON {period.name} USING brin ({ROW_ID})")
        for column in (*schema.keys, *((schema.time,) if schema.time else ())):
            con.execute(f"CREATE INDEX IF NOT EXISTS {period.name}_{column} ON {period.name} ({column})")

    def _copy(self, con: psycopg.Connection[Any], period: Period, rows: pa.Table) -> None:
        schema = self.schemas[period.table]
        names = ", ".join(rows.column_names)
        columns = [
            _without_nul(column.to_pylist(), schema.columns.get(name))
            for name, column in zip(rows.column_names, plain(rows).columns, strict=True)
        ]
        with con.cursor().copy(f"COPY {period.name} ({names}) FROM STDIN") as copy:
            for row in zip(*columns, strict=True):
                copy.write_row(row)

    def _end(self, period: Period) -> int:
        return (period.start + period.length) * self.schemas[period.table].time_unit_ns


class PostgresReader(Reader):
    def __init__(self, driver: PostgresDriver) -> None:
        self._driver = driver
        self._con: psycopg.Connection[Any] | None = None

    def query(self, sql: str, params: Sequence[object], scopes: Mapping[str, Scope]) -> pa.Table:
        try:
            if self._con is None or self._con.closed or self._con.broken:
                self._con = self._driver.connect()
            try:
                return self._run(self._con, sql, params, scopes)
            except psycopg.errors.UndefinedTable:  # a period has just been dropped; or the query is wrong
                return self._run(self._con, sql, params, scopes)
        except psycopg.Error as error:
            raise _query_error(error) from error

    def interrupt(self) -> None:
        if self._con is not None:
            self._con.cancel_safe(timeout=_CONNECT_SECONDS)

    def close(self) -> None:
        if self._con is not None:
            self._con.close()

    def _run(
        self, con: psycopg.Connection[Any], sql: str, params: Sequence[object], scopes: Mapping[str, Scope]
    ) -> pa.Table:
        schemas = self._driver.schemas
        existing = periods(con, schemas) if scopes else ()
        expanded, values = expand(sql, params, scopes, schemas, existing)
        return _table(con.execute(expanded, values))


def periods(con: psycopg.Connection[Any], schemas: Mapping[str, TableSchema]) -> list[Period]:
    """Return the periods that are there now: others may have made some."""
    names = con.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
    found = (Period.named(name) for (name,) in names)
    return [period for period in found if period is not None and period.table in schemas]


def _table(cursor: psycopg.Cursor[Any]) -> pa.Table:
    rows = cursor.fetchall()
    description = cursor.description or []
    columns = list(zip(*rows, strict=True)) or [()] * len(description)
    arrays = []
    for column, values in zip(description, columns, strict=True):
        kind = column.type_display
        if kind.startswith("numeric"):
            known = [value for value in values if value is not None]
            arrays.append(
                pa.array(map(_int, values), pa.int64())
                if all(value == value.to_integral_value() and value.as_tuple().exponent >= 0 for value in known)
                else pa.array(map(_float, values), pa.float64())
            )
        else:
            arrays.append(pa.array(values, _ARROW.get(kind, pa.string())))
    return normal(pa.table(arrays, names=[column.name for column in description]))


def _int(value: Any) -> int | None:
    return None if value is None else int(value)


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _without_nul(values: list[Any], kind: Type | None) -> list[Any]:
    if kind is Type.JSON:
        return [
            value if value is None or "\\u0000" not in value else _NUL_ESCAPE.sub(r"\1\\ufffd", value)
            for value in values
        ]
    if kind is Type.TEXT:
        return [value if value is None or "\0" not in value else value.replace("\0", "\ufffd") for value in values]
    if kind is Type.TEXT_LIST:
        return [None if value is None else _without_nul(value, Type.TEXT) for value in values]
    return values


def _columns(schema: TableSchema) -> str:
    columns = [f"{name} {_TYPES[kind]}" for name, kind in schema.columns.items()]
    return ", ".join((*columns, f"{ROW_ID} bigint"))


def _drop(con: psycopg.Connection[Any], period: Period) -> bool:
    """Drop the period unless a query reads it: waiting for that would keep all writers waiting. The next round does."""
    try:
        with con.transaction():
            con.execute("SET LOCAL lock_timeout = '200ms'")
            con.execute(f"DROP TABLE {period.name}")
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def _size(con: psycopg.Connection[Any], period: Period) -> int:
    return int(_one(con, "SELECT pg_total_relation_size($1::regclass)", [period.name])[0])


def _one(con: psycopg.Connection[Any], sql: str, params: Sequence[object]) -> tuple[Any, ...]:
    row = con.execute(sql, params).fetchone()
    if row is None:
        raise StorageError("the telemetry store has lost its bookkeeping (the table mesh_marks)")
    found: tuple[Any, ...] = row
    return found


def _query_error(error: psycopg.Error) -> ColumnsError:
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return StorageError(f"the telemetry store cannot be read: {_line(error)}")
    return QueryError(_line(error))


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0]
