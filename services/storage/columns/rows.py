"""What a group of batches comes to: checks, row ids, periods, what each producer has stored.

Decides, and does no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.storage.columns.base import ROW_ID, Appended, BatchError, Period, Scope, SequenceError, TableSchema, Type

# One batch may not open more tables than this: timestamps all over the place are a fault of the sender.
MAX_PERIODS = 64
# Arrow chunks that are shorter cost more to scan than to join.
SMALL_CHUNK = 2048

_ENCODED = pa.dictionary(pa.int32(), pa.string())
_TEXTS = (Type.TEXT, Type.JSON)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one `append` is to store, checked."""

    tables: Mapping[str, pa.Table]
    producer: str
    seq: int
    # What must be stored of the producer before it; None is anything before `seq`.
    after: int | None
    # By Arrow's count.
    size: int
    rows: int
    # Whether its JSON was made by us: nobody need look whether it is any.
    json_known: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """What becomes of a group of batches, and what each is told once it is durable."""

    outcomes: list[Appended | SequenceError]
    # Those to be stored.
    fresh: list[Batch]
    # Of the producers whose last sequence number changes.
    marks: dict[str, int]
    last_row: int


def check(
    schemas: Mapping[str, TableSchema],
    tables: Mapping[str, pa.Table],
    producer: str,
    seq: int,
    after: int | None,
    *,
    json_known: bool = False,
) -> Batch:
    """Return the batch with its columns in the types of their schemas; `BatchError` says what is wrong with it."""
    if len(producer) > 255:
        raise BatchError("a producer's name has at most 255 characters")
    if producer and not 0 < seq < 2**63:
        raise BatchError(f"sequence numbers begin with 1: {seq} is none")
    if producer and after is not None and not 0 <= after < seq:
        raise BatchError(f"a batch covers what follows {after} up to {seq}: that is nothing")
    checked = {name: _checked(_schema(schemas, name), table) for name, table in tables.items() if table.num_rows}
    size = sum(table.nbytes for table in checked.values())
    rows = sum(table.num_rows for table in checked.values())
    return Batch(checked, producer, seq, after, size, rows, json_known)


def judge(group: Sequence[Batch], marks: Mapping[str, int], last_row: int) -> Judged:
    """Return what to store of `group`; `marks` has what is stored of its producers, and rows end at `last_row`."""
    stored: dict[str, int] = {}
    fresh: list[Batch] = []
    verdicts: list[SequenceError | bool] = []
    for batch in group:
        # None: nothing is known of it any more, or yet, and whatever it goes on with is right.
        mark = stored.get(batch.producer, marks.get(batch.producer)) if batch.producer else None
        if mark is None or (batch.after == mark if batch.after is not None else batch.seq > mark):
            verdicts.append(False)
            fresh.append(batch)
            if batch.producer:
                stored[batch.producer] = batch.seq
        else:
            verdicts.append(True if batch.seq <= mark else SequenceError(batch.producer, mark))
    last_row += sum(batch.rows for batch in fresh)
    outcomes: list[Appended | SequenceError] = [
        verdict
        if isinstance(verdict, SequenceError)
        else Appended(verdict, last_row, stored.get(batch.producer, marks.get(batch.producer, 0)))
        for batch, verdict in zip(group, verdicts, strict=True)
    ]
    return Judged(outcomes, fresh, stored, last_row)


def laid_out(schemas: Mapping[str, TableSchema], batches: Sequence[Batch], last_row: int) -> dict[Period, pa.Table]:
    """Return the rows of the batches by period, numbered from what follows `last_row`."""
    tables: dict[str, list[pa.Table]] = {}
    for batch in batches:
        for name, table in batch.tables.items():
            tables.setdefault(name, []).append(table)
    inserts: dict[Period, pa.Table] = {}
    for name, parts in tables.items():
        rows = _joined(parts)
        numbered = rows.append_column(ROW_ID, pa.array(np.arange(last_row + 1, last_row + 1 + rows.num_rows)))
        last_row += rows.num_rows
        inserts.update(_by_period(schemas[name], numbered))
    return inserts


def touches(schemas: Mapping[str, TableSchema], batch: Batch, scope: Scope) -> bool:
    """Tell whether the batch may have rows of the scope."""
    table, schema = batch.tables.get(scope.table), schemas.get(scope.table)
    if table is None or schema is None:
        return False
    if schema.time and (scope.start is not None or scope.end is not None):
        times = pc.min_max(table.column(schema.time)).as_py()
        if (scope.start is not None and times["max"] < scope.start) or (
            scope.end is not None and times["min"] >= scope.end
        ):
            return False
    if scope.key is None or scope.key[0] not in schema.keys:
        return True
    wanted = pa.array(scope.values, pa.string())
    return any(
        pc.any(pc.is_in(chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk, value_set=wanted)).as_py()
        for chunk in table.column(scope.key[0]).chunks
    )


def plain(table: pa.Table) -> pa.Table:
    """Return the table with dictionary-encoded columns decoded."""
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            column = table.column(index).cast(field.type.value_type)
            table = table.set_column(index, field.name, column)
    return table


def normal(table: pa.Table) -> pa.Table:
    """Return a result with the types that `ColumnStore.query` promises."""
    for index, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            wanted = pa.int64() if field.type.scale == 0 else pa.float64()
            table = table.set_column(index, field.name, table.column(index).cast(wanted))
        elif isinstance(field.type, pa.ExtensionType | pa.BaseExtensionType):
            column = table.column(index).cast(field.type.storage_type)
            table = table.set_column(index, field.name, column)
        elif pa.types.is_large_string(field.type) or pa.types.is_string_view(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(pa.string()))
    return table


def _schema(schemas: Mapping[str, TableSchema], name: str) -> TableSchema:
    if name not in schemas:
        raise BatchError(f"there is no table {name!r}: there are {', '.join(sorted(schemas))}")
    return schemas[name]


def _checked(schema: TableSchema, table: pa.Table) -> pa.Table:
    wanted = list(schema.columns)
    if table.column_names != wanted:
        raise BatchError(f"a batch of {schema.name} has the columns {', '.join(wanted)}, in this order")
    arrays = []
    for column, kind in zip(table.columns, schema.columns.values(), strict=True):
        encoded = pa.types.is_dictionary(column.type) and kind in _TEXTS
        arrow = _ENCODED if encoded else kind.arrow
        try:
            arrays.append(column if column.type == arrow else column.cast(arrow))
        except pa.ArrowException as error:
            raise BatchError(f"a batch of {schema.name}: {error}") from error
    table = pa.table(arrays, names=wanted)
    if schema.time:
        times = table.column(schema.time)
        if times.null_count:
            raise BatchError(f"{schema.name}: {times.null_count} rows have no {schema.time}")
        bounds = pc.min_max(times).as_py()
        if (bounds["max"] - bounds["min"]) // schema.period > MAX_PERIODS and len(_starts(schema, table)) > MAX_PERIODS:
            raise BatchError(f"{schema.name}: one batch may not have rows of more than {MAX_PERIODS} periods")
    return table


def _starts(schema: TableSchema, table: pa.Table) -> np.ndarray:
    return np.unique(table.column(schema.time).to_numpy() // schema.period)


def _joined(tables: list[pa.Table]) -> pa.Table:
    if any(table.schema != tables[0].schema for table in tables):
        tables = [plain(table) for table in tables]
    rows = pa.concat_tables(tables)
    chunks = max(rows.column(0).num_chunks, 1)
    return rows.combine_chunks() if chunks > 1 and rows.num_rows // chunks < SMALL_CHUNK else rows


def _by_period(schema: TableSchema, rows: pa.Table) -> dict[Period, pa.Table]:
    if not schema.time:
        return {Period(schema.name, 0, 0): rows}
    length = schema.period
    starts = rows.column(schema.time).to_numpy() // length
    first = int(starts.min())
    if first == int(starts.max()):
        return {Period(schema.name, first * length, length): rows}
    found = np.unique(starts)
    return {Period(schema.name, int(one) * length, length): rows.filter(pa.array(starts == one)) for one in found}
