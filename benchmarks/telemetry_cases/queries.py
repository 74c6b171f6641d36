"""How fast records are found in a large store."""

from __future__ import annotations

import asyncio
import functools
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks.telemetry_cases import rows as made
from mesh.api.logsink.v1 import Filter
from services.logsink.domain import LogSink
from services.logsink.records import LOGS, from_batch
from services.sinks.messages import fields_of
from services.storage.columns.base import DAY_NS
from services.storage.columns.urls import open_columns

BATCH = 50_000
LOOKUPS = 20
SEARCHES = 5


async def measure(folder: Path, rows: int) -> dict[str, float]:
    """Fill a store with records of three days, then ask."""
    path = folder / "logs.duckdb"
    now = time.time_ns()
    start, step = now - 3 * DAY_NS, 3 * DAY_NS // rows
    async with open_columns(f"duckdb://{path}", [LOGS]) as store:
        sink = LogSink(store)
        begun = time.perf_counter()
        for first in range(0, rows, BATCH):
            await store.append({LOGS.name: _table(first, start, step)})
        found: dict[str, float] = {"filled, s": time.perf_counter() - begun, "records": rows}
        choose = random.Random(1)  # noqa: S311
        whole: dict[str, Any] = {"start_ns": start, "end_ns": now}

        def lookup() -> Filter:
            return Filter(correlation_id=made.correlation_id(choose.randrange(rows)))

        async def ask(filter_: Filter, expected: int) -> None:
            page = await sink.search(filter_, 100, "", oldest_first=False)
            assert len(page.records) == expected, len(page.records)

        timed: dict[str, tuple[int, Callable[[], Awaitable[Any]]]] = {
            "correlation id, no time range": (LOOKUPS, lambda: ask(lookup(), made.PER_ID)),
            "unknown correlation id": (LOOKUPS, lambda: ask(Filter(correlation_id="none"), 0)),
            "text that is nowhere, all records": (SEARCHES, lambda: ask(Filter(text="Wombat", **whole), 0)),
            "text that is common, newest 100": (SEARCHES, lambda: ask(Filter(text="warehouse", **whole), 100)),
            "expression that matches nowhere": (SEARCHES, lambda: ask(Filter(regex="wombat$", **whole), 0)),
            "histogram of all records": (SEARCHES, lambda: sink.histogram(Filter(**whole), 0)),
        }
        for name, (times, call) in timed.items():
            taken = []
            for _ in range(times):
                at = time.perf_counter()
                await call()
                taken.append((time.perf_counter() - at) * 1000)
            found[f"{name}, median ms"] = statistics.median(taken)
            found[f"{name}, worst ms"] = max(taken)
    found["size, MiB"] = path.stat().st_size / 2**20
    return found | await asyncio.to_thread(_scan, path, rows)


@functools.cache
def _template(number: int) -> pa.Table:
    return from_batch(fields_of(made.columnar(BATCH, number * BATCH)), time.time_ns())[0]


def _table(first: int, start: int, step: int) -> pa.Table:
    """Return a batch of records with ids and times of their own; the rest repeats."""
    table = _template(first // BATCH % 4)
    ids = [made.correlation_id(number) for number in range(first, first + BATCH, made.PER_ID)]
    traces = [f"{number // made.PER_ID:032x}" for number in range(first, first + BATCH, made.PER_ID)]
    places = pa.array(np.arange(BATCH) // made.PER_ID, pa.int32())
    times = start + np.arange(first, first + BATCH) * step
    for name, column in (
        ("ts_ns", pa.array(times)),
        ("correlation_id", pa.DictionaryArray.from_arrays(places, pa.array(ids)).cast(pa.string())),
        ("trace_id", pa.DictionaryArray.from_arrays(places, pa.array(traces)).cast(pa.string())),
    ):
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _scan(path: Path, rows: int) -> dict[str, float]:
    """Look for correlation ids and a text in DuckDB alone, over one view of all tables, without our index."""
    con = duckdb.connect(path, read_only=True, config={"memory_limit": "512MB", "threads": 2})
    names = [name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
    tables = [name for name in names if name.startswith("logs_p") and "_by_" not in name]
    everything = " UNION ALL ".join(f"SELECT * FROM {name}" for name in tables)  # noqa: S608
    found = {}
    for what, condition in (
        ("correlation id", f"correlation_id = '{made.correlation_id(rows // 2)}'"),
        ("text that is nowhere", "body ILIKE '%Wombat%'"),
    ):
        taken = []
        for _ in range(SEARCHES):
            at = time.perf_counter()
            con.execute(f"SELECT * FROM ({everything}) WHERE {condition} ORDER BY ts_ns DESC LIMIT 100").fetchall()  # noqa: S608
            taken.append((time.perf_counter() - at) * 1000)
        found[f"DuckDB alone: {what} by a scan, median ms"] = statistics.median(taken)
    return found
