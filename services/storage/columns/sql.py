"""The SQL that both databases speak: which tables a scope of a query stands for. Decides, and does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from services.storage.columns.base import ROW_ID, Period, QueryError, Scope, TableSchema

# Of a key within one period: more places than these are looked at as one, from the first to the last.
MAX_RANGES = 16

# Row ids, first and last, between which the rows of a key lie.
Ranges = Mapping[Period, Sequence[tuple[int, int]]]


def empty_name(table: str) -> str:
    """Return the name of the table that has the columns of `table` and no rows, ever."""
    return f"{table}_none"


def expand(
    sql: str,
    params: Sequence[object],
    scopes: Mapping[str, Scope],
    schemas: Mapping[str, TableSchema],
    periods: Iterable[Period],
    find: Callable[[Scope], Ranges | None] = lambda _: None,
) -> tuple[str, list[object]]:
    """Return `sql` with each `{name}` replaced by the tables of its scope, and the parameters.

    `find` says where in its periods the rows of a scope's key lie; None is anywhere.
    """
    values = list(params)
    existing = sorted(periods, key=lambda period: (period.table, period.start))
    for name, scope in scopes.items():
        schema = schemas.get(scope.table)
        if schema is None:
            raise QueryError(f"there is no table {scope.table!r}")
        wanted = [period for period in existing if period.table == scope.table and overlaps(period, scope)]
        condition = ""
        if scope.key is not None:
            column = scope.key[0]
            if column not in schema.keys:
                raise QueryError(f"{column!r} is no key of {scope.table}: {', '.join(schema.keys) or 'it has none'}")
            several = len(scope.values) != 1
            values.append(list(scope.values) if several else scope.values[0])
            condition = f"{column} = ANY(${len(values)})" if several else f"{column} = ${len(values)}"
        ranges = find(scope) if scope.key is not None else None
        if ranges is not None:
            wanted = [period for period in wanted if period in ranges]
        selects = [
            _select(schema, period, scope, condition, None if ranges is None else ranges[period]) for period in wanted
        ]
        if not selects:
            none = f"SELECT * FROM {empty_name(scope.table)}"
            selects = [f"{none} WHERE {condition}" if condition else none]
        sql = sql.replace(f"{{{name}}}", f"({' UNION ALL '.join(selects)}) AS {name}")
    return sql, values


def overlaps(period: Period, scope: Scope) -> bool:
    """Tell whether the period may have rows in the time of the scope."""
    if not period.length:
        return True
    return (scope.end is None or period.start < scope.end) and (
        scope.start is None or period.start + period.length > scope.start
    )


def merged(found: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return at most `MAX_RANGES` ranges, in order, that cover all of `found`."""
    ranges: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            ranges.append((first, last))
    if len(ranges) > MAX_RANGES:
        return [(ranges[0][0], ranges[-1][1])]
    return ranges


def _select(
    schema: TableSchema, period: Period, scope: Scope, condition: str, ranges: Sequence[tuple[int, int]] | None
) -> str:
    conditions = [condition] if condition else []
    if ranges is not None:
        conditions.append("(" + " OR ".join(f"{ROW_ID} BETWEEN {first} AND {last}" for first, last in ranges) + ")")
    if scope.start is not None and (not period.length or scope.start > period.start):
        conditions.append(f"{schema.time} >= {int(scope.start)}")
    if scope.end is not None and (not period.length or scope.end < period.start + period.length):
        conditions.append(f"{schema.time} < {int(scope.end)}")
    if scope.after_row is not None:
        conditions.append(f"{ROW_ID} > {int(scope.after_row)}")
    columns = ", ".join((*schema.columns, ROW_ID))
    return f"SELECT {columns} FROM {period.name}" + (f" WHERE {' AND '.join(conditions)}" if conditions else "")
