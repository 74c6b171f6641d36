"""The tables that the suite stores, and rows for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from services.storage.columns.base import HOUR_NS, ColumnStore, Scope, TableSchema, Type

EVENTS = TableSchema(
    "events",
    {"ts_ns": Type.BIGINT, "id": Type.TEXT, "body": Type.TEXT, "number": Type.DOUBLE, "attributes": Type.JSON},
    period_ns=HOUR_NS,
    keys=("id",),
    max_age=86_400.0,
)
EVERYTHING = TableSchema(
    "everything",
    {
        "ts_ms": Type.BIGINT,
        "double_value": Type.DOUBLE,
        "truth": Type.BOOLEAN,
        "words": Type.TEXT,
        "tree": Type.JSON,
        "texts": Type.TEXT_LIST,
        "counts": Type.BIGINT_LIST,
        "bounds": Type.DOUBLE_LIST,
    },
    time="ts_ms",
    time_unit_ns=1_000_000,
)
SERIES = TableSchema("series", {"id": Type.BIGINT, "name": Type.TEXT}, time="")
SCHEMAS = (EVENTS, EVERYTHING, SERIES)

# 2026-01-01, at the begin of an hour.
NOON = 1_767_268_800 * 1_000_000_000


def events(rows: Sequence[tuple[int, str, str]]) -> dict[str, pa.Table]:
    """Return a batch of events: pairs of time (from NOON), id and body."""
    return {
        "events": pa.table(
            {
                "ts_ns": pa.array([NOON + ts for ts, _, _ in rows], pa.int64()),
                "id": pa.array([id_ for _, id_, _ in rows], pa.string()).dictionary_encode(),
                "body": pa.array([body for _, _, body in rows], pa.string()),
                "number": pa.nulls(len(rows), pa.float64()),
                "attributes": pa.array(["{}"] * len(rows), pa.string()),
            }
        )
    }


def one(text: str, ts: int = 0) -> dict[str, pa.Table]:
    return events([(ts, text, text)])


async def bodies(store: ColumnStore, scope: Scope = Scope("events")) -> list[str]:  # noqa: B008 - it is frozen
    """Return the bodies in the order in which they were stored."""
    found = await store.query("SELECT body FROM {e} ORDER BY row_id", scopes={"e": scope})
    return [row["body"] for row in found.to_pylist()]


async def rows_of(store: ColumnStore, sql: str, *params: object, table: str = "events") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await store.query(sql, params, {"t": Scope(table)})).to_pylist()
    return found
