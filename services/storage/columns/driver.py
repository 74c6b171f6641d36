"""What the store needs of a database. A driver is called by threads; only `interrupt` may meet another call."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyarrow as pa

from services.storage.columns.base import Appended, Retained, Scope, SequenceError, TableSchema
from services.storage.columns.rows import Batch


class Reader(abc.ABC):
    """One connection for queries, one at a time."""

    @abc.abstractmethod
    def query(self, sql: str, params: Sequence[object], scopes: Mapping[str, Scope]) -> pa.Table:
        """Do what `ColumnStore.query` says."""

    @abc.abstractmethod
    def interrupt(self) -> None:
        """End the query that runs, if one does. Called by another thread; may raise."""

    @abc.abstractmethod
    def close(self) -> None: ...


class Driver(abc.ABC):
    """The database. All but `reader`, `stats` and `close` are called by the one thread that writes."""

    name: ClassVar[str]
    # Whether nobody else can write to the database while it is open.
    exclusive: ClassVar[bool] = False
    schemas: Mapping[str, TableSchema]

    @abc.abstractmethod
    def open(self) -> None:
        """Connect, and make what is missing. Raises `StartError`."""

    @abc.abstractmethod
    def write(self, group: Sequence[Batch]) -> list[Appended | SequenceError]:
        """Write the batches in one transaction.

        Raises:
            BatchError: one of them is malformed; nothing is written, and trying each alone tells which.
            StorageError: it could not be written.

        """

    @abc.abstractmethod
    def mark(self, producer: str) -> int | None:
        """Return the last sequence number stored of the producer."""

    @abc.abstractmethod
    def last_row(self) -> int:
        """Return the last row id given, 0 if there was none."""

    @abc.abstractmethod
    def retain(self, now_ns: int) -> Retained:
        """Do what `ColumnStore.retain` says."""

    @abc.abstractmethod
    def reader(self) -> Reader:
        """Connect for queries; called by one of the reader threads."""

    @property
    def stats(self) -> Mapping[str, float]:
        """What the driver counts besides; read by any thread."""
        return {}

    @abc.abstractmethod
    def close(self) -> None: ...
