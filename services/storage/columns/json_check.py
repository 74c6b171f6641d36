"""Finds JSON that is none before a batch is acknowledged: as DuckDB reads it, in an empty database of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa

from services.storage.columns.base import BatchError, TableSchema, Type
from services.storage.columns.rows import Batch


class JsonCheck:
    """One thread at a time."""

    def __init__(self, schemas: Mapping[str, TableSchema]) -> None:
        self._columns = {
            schema.name: [name for name, kind in schema.columns.items() if kind is Type.JSON]
            for schema in schemas.values()
        }
        self._con = duckdb.connect(":memory:", config={"threads": 1, "enable_external_access": False})

    def check(self, batches: Sequence[Batch]) -> None:
        """Raise `BatchError` when one of the batches has JSON that is none."""
        texts = [
            text
            for batch in batches
            if not batch.json_known
            for name, table in batch.tables.items()
            for column in self._columns[name]
            for text in _distinct(table.column(column))
        ]
        if not texts:
            return
        self._con.register("given", pa.table({"text": pa.chunked_array(texts, pa.string())}))
        try:
            # A sum over the cast: a count would not need it.
            self._con.execute("SELECT sum(length(CAST(CAST(text AS JSON) AS VARCHAR))) FROM given").fetchall()
        except duckdb.DataError as error:
            raise BatchError(str(error).split("\n", 1)[0]) from error
        finally:
            self._con.unregister("given")

    def close(self) -> None:
        self._con.close()


def _distinct(column: pa.ChunkedArray) -> list[pa.Array]:
    encoded = pa.types.is_dictionary(column.type)
    return [chunk.dictionary if encoded else chunk for chunk in column.chunks]
