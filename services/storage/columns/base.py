"""The columnar storage interface that logs, traces and metrics stand on: append batches, query, retain.

Rows are appended in batches (pyarrow tables) and never changed. Each table's rows lie in *periods* of time, one table
of the database each, so that old ones go by DROP TABLE. What `append` returns is durable, and a batch of one producer
is stored once however often it is sent. Every driver behaves alike; what one of them cannot do is not in here.

Every table has one column more than its schema: `row_id`, which grows with each row in the order of commits, over all
tables. Queries see committed rows only.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

import pyarrow as pa

from mesh.errors import MeshError, Source
from mesh.options import require

DAY_NS = 86_400 * 1_000_000_000
HOUR_NS = DAY_NS // 24
ROW_ID = "row_id"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_PERIOD = re.compile(r"([a-z][a-z0-9_]*?)_p(m?\d+)_(\d+)")


class ColumnsError(MeshError):
    """The root of what a columnar store raises."""


class StorageError(ColumnsError):
    """It could not be made durable, or read, now. With a producer and its sequence trying again does no harm."""

    retryable = True


class FullError(StorageError):
    """More waits to be written, or read, than may. Try again after `retry_after` seconds."""

    source = Source.DOWNSTREAM

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BatchError(ColumnsError):
    """The batch is not what its table takes: a column of another type, malformed JSON. It will never be stored."""

    source = Source.DOWNSTREAM


class SequenceError(ColumnsError):
    """The batch does not follow what is stored of its producer: it overlaps, or leaves a gap.

    Go on after `durable_seq`.
    """

    source = Source.DOWNSTREAM

    def __init__(self, producer: str, durable_seq: int) -> None:
        super().__init__(f"{durable_seq} is the last sequence number stored of {producer!r}: send what follows it")
        self.durable_seq = durable_seq


class QueryError(ColumnsError):
    """The database refuses the query: a bad pattern, say."""

    source = Source.DOWNSTREAM


class Type(Enum):
    """A portable column type: its name in Arrow. Every column may hold nulls, but for the time of a table."""

    BIGINT = "int64"
    DOUBLE = "double"
    BOOLEAN = "bool"
    TEXT = "string"
    # Text on its way in and out; `->` and `->>` look into it. PostgreSQL orders its keys anew.
    JSON = "json"
    TEXT_LIST = "list<string>"
    BIGINT_LIST = "list<int64>"
    DOUBLE_LIST = "list<double>"

    @property
    def arrow(self) -> pa.DataType:
        return _ARROW[self]


_ARROW: Mapping[Type, pa.DataType] = {
    Type.BIGINT: pa.int64(),
    Type.DOUBLE: pa.float64(),
    Type.BOOLEAN: pa.bool_(),
    Type.TEXT: pa.string(),
    Type.JSON: pa.string(),
    Type.TEXT_LIST: pa.list_(pa.string()),
    Type.BIGINT_LIST: pa.list_(pa.int64()),
    Type.DOUBLE_LIST: pa.list_(pa.float64()),
}


@dataclass(frozen=True, slots=True)
class TableSchema:
    """One kind of table, declared once; frozen for good with the first store that is made with it.

    Columns may be added at the end by a later version: rows from before have null there.
    """

    name: str
    # Names, in order, and their types.
    columns: Mapping[str, Type]
    # The BIGINT column whose value, in `time_unit` per second, says which period a row belongs to; "" for a table
    # without periods, whose rows are kept for good (a dictionary of series, say).
    time: str = "ts_ns"
    # Nanoseconds of one unit of `time`: 1 for ts_ns, 1_000_000 for ts_ms.
    time_unit_ns: int = 1
    period_ns: int = 6 * HOUR_NS
    # TEXT columns by whose value rows are found without a time range (correlation id, trace id).
    keys: tuple[str, ...] = ()
    # How long rows are kept, in seconds of their own time.
    max_age: float = 7 * 86_400.0

    def __post_init__(self) -> None:
        require(_NAME.fullmatch(self.name) is not None, f"{self.name!r} cannot name a table")
        for name in self.columns:
            require(_NAME.fullmatch(name) is not None and name != ROW_ID, f"{name!r} cannot name a column")
        if self.time:
            require(self.columns.get(self.time) is Type.BIGINT, f"{self.name}: {self.time} is no BIGINT column")
        require(self.period_ns % self.time_unit_ns == 0, f"{self.name}: a period must be whole units of its time")
        for key in self.keys:
            require(self.columns.get(key) is Type.TEXT, f"{self.name}: the key {key} is no TEXT column")

    @property
    def arrow(self) -> pa.Schema:
        """What a batch of this table must be, columns in this order; TEXT and JSON may come dictionary-encoded."""
        return pa.schema([(name, kind.arrow) for name, kind in self.columns.items()])

    @property
    def period(self) -> int:
        """The length of a period in units of `time`."""
        return self.period_ns // self.time_unit_ns


@dataclass(frozen=True, slots=True)
class Scope:
    """Which rows of a table a query looks at; what is not given does not restrict. All that is given must hold."""

    table: str
    # In the unit of the table's time: from `start`, up to and without `end`.
    start: int | None = None
    end: int | None = None
    # One of the table's keys and its value, or several of which one must be it: found fast without a time range.
    key: tuple[str, str | tuple[str, ...]] | None = None
    # Only rows committed after this one.
    after_row: int | None = None

    @property
    def values(self) -> tuple[str, ...]:
        """The values of the key."""
        value = self.key[1] if self.key is not None else ()
        return (value,) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Appended:
    """A batch that is durable."""

    # Whether it had been stored before: then nothing was done.
    duplicate: bool
    # Of its last row, or of the store's, when it was stored before.
    last_row_id: int
    # The highest sequence number stored of its producer.
    durable_seq: int


@dataclass(frozen=True, slots=True)
class Options:
    """Bounds of a store."""

    # What DuckDB may use of memory, beyond which it goes to disk, and its threads for queries. A query that needs
    # more fails; what the process itself holds (queue, results) comes on top.
    memory_mb: int = 512
    threads: int = 2
    # Queries at a time, and how many may wait for their turn.
    readers: int = 4
    waiting: int = 64
    # What may wait to be written, by Arrow's count; and what one transaction takes at most.
    queue_bytes: int = 64 << 20
    group_bytes: int = 16 << 20
    # The database is kept to this size: the oldest periods go first, whatever their table.
    max_bytes: int = 10 << 30
    # Producers that have not been heard of for so long are forgotten, in seconds.
    producer_age: float = 30 * 86_400.0

    def __post_init__(self) -> None:
        require(self.memory_mb >= 64, "memory_mb must be at least 64")
        for name in ("threads", "readers", "waiting", "queue_bytes", "group_bytes", "max_bytes"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1")


@dataclass(frozen=True, slots=True)
class Period:
    """One table of the database: the rows of `table` with a time from `start` up to and without `start` + `length`.

    Both are in the unit of the table's time; the `length` is 0 where a table has no periods.
    """

    table: str
    start: int
    length: int

    @property
    def name(self) -> str:
        """What it is called in the database; `named` reads it back."""
        return f"{self.table}_p{self.start}_{self.length}".replace("-", "m")

    @classmethod
    def named(cls, name: str) -> Period | None:
        """Return the period whose table has this name, or None when it is none."""
        match = _PERIOD.fullmatch(name)
        return cls(match[1], int(match[2].replace("m", "-")), int(match[3])) if match else None


@dataclass(frozen=True, slots=True)
class Retained:
    """What a round of retention did."""

    dropped: tuple[Period, ...] = field(default=())
    # What the database uses after it.
    bytes_used: int = 0


class ColumnStore(abc.ABC):
    """A driver. Use as `async with store`, which opens and closes it; all methods are for one event loop.

    No call holds a thread while it waits: there is one writer and `Options.readers` readers, and what does not fit in
    their bounded queues raises `FullError`.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abc.abstractmethod
    async def append(
        self,
        batches: Mapping[str, pa.Table],
        *,
        producer: str = "",
        seq: int = 0,
        after: int | None = None,
        json_known: bool = False,
    ) -> Appended:
        """Store tables of rows, by table name, all or none, and return when they are durable.

        With a `producer` the batch covers its sequence numbers after `after` up to and with `seq`: sent again it is a
        duplicate and not stored. They may be counters, or places in a file. With `after` None only `seq` counts, and
        there may be gaps. Whoever appends a batch before the one before it is durable must give `after`: else, if that
        one fails, it is taken for stored when it is sent again.
        Appends that one caller starts in order are stored in that order. `json_known` is for JSON that this process has
        made itself: a driver need not look whether it is any.

        Raises:
            BatchError: it is malformed.
            SequenceError: `after` is not the last one stored, and it is no duplicate.
            FullError: too much waits to be written.
            StorageError: it could not be written.

        """

    @abc.abstractmethod
    async def durable_seq(self, producer: str) -> int | None:
        """Return the last sequence number stored of `producer`, after all that was appended before; None is none."""

    @abc.abstractmethod
    async def query(
        self, sql: str, params: Sequence[object] = (), scopes: Mapping[str, Scope] | None = None
    ) -> pa.Table:
        """Run one SELECT, in SQL that both databases speak, and return its rows.

        `{name}` in `sql` stands for the rows of `scopes[name]`, with all columns of its table and `row_id`; it must
        stand where a table can, without an alias after it (its alias is `name`). `$1`, `$2`... are `params`: int,
        float, str, bool, None or lists of them. JSON comes as text, decimals as int64 or double. Cancelling the
        awaiting task ends the query in the database.

        Raises:
            QueryError: the database refuses the query.
            FullError: too many queries wait.
            StorageError: the database does not answer.

        """

    @abc.abstractmethod
    async def retain(self) -> Retained:
        """Drop the periods that are too old, then the oldest until the store fits in its size; forget producers.

        The owner of the store calls it, about once a minute. Even the current period goes when it alone is too large.
        """

    @abc.abstractmethod
    async def committed(self, after_row: int, timeout: float) -> int:  # noqa: ASYNC109 - its end is no error
        """Wait until a row later than `after_row` may be there, or `timeout` seconds; return the last row id."""

    @property
    def exclusive(self) -> bool:
        """Whether nobody else can write to the database while it is open."""
        return False

    @property
    @abc.abstractmethod
    def stats(self) -> Mapping[str, float]:
        """Counters since the start: rows, batches, duplicates, refused, commits, queued_bytes, commit_seconds, ..."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Write what was accepted, end the queries, then let go of everything."""
