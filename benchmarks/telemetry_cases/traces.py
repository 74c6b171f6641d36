"""How fast traces are found in a large store, and how fast many are looked at together."""

from __future__ import annotations

import functools
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.telemetry_cases import span_rows as made
from mesh.api.tracesink.v1 import LatencyRequest, TopologyRequest, TraceFilter
from services.logsink.records import LOGS
from services.sinks.messages import fields_of
from services.storage.columns.base import DAY_NS
from services.storage.columns.urls import open_columns
from services.tracesink.domain import TraceSink
from services.tracesink.records import SPANS, from_batch

BATCH = 48_000
LOOKUPS = 20
SEARCHES = 5


async def measure(folder: Path, rows: int) -> dict[str, float]:
    """Fill a store with spans of a day, then ask."""
    path = folder / "spans.duckdb"
    now = time.time_ns()
    start, step = now - DAY_NS, DAY_NS // rows
    async with open_columns(f"duckdb://{path}", [SPANS, LOGS]) as store:
        sink = TraceSink(store)
        begun = time.perf_counter()
        for first in range(0, rows, BATCH):
            await store.append({SPANS.name: _table(first, start, step)})
        found: dict[str, float] = {"filled, s": time.perf_counter() - begun, "spans": rows}
        choose = random.Random(1)  # noqa: S311
        hour: dict[str, Any] = {"start_ns": now - DAY_NS // 24, "end_ns": now}
        day: dict[str, Any] = {"start_ns": start, "end_ns": now}

        async def one_trace() -> None:
            reply = await sink.trace(made.trace_id(choose.randrange(rows)))
            assert len(reply.spans) == made.PER_TRACE
            assert reply.critical_path

        async def conversation() -> None:
            reply = await sink.correlation(f"order-{choose.randrange(rows) // made.PER_TRACE}", 0)
            assert len(reply.items) == made.PER_TRACE

        async def find(least: int, **filter_: Any) -> None:
            page = await sink.find(TraceFilter(**filter_), 20, "")
            assert len(page.traces) >= least

        timed: dict[str, tuple[int, Callable[[], Awaitable[Any]]]] = {
            "one trace": (LOOKUPS, one_trace),
            "one conversation": (LOOKUPS, conversation),
            "the newest 20 traces": (SEARCHES, lambda: find(20, **day)),
            "the newest 20 that failed": (SEARCHES, lambda: find(20, errors=True, **day)),
            "traces of one order": (SEARCHES, lambda: find(1, attributes={"order.id": "77"}, **day)),
            "traces of nobody": (SEARCHES, lambda: find(0, services=["nobody"], **day)),
            "topology of an hour": (SEARCHES, lambda: sink.topology(TopologyRequest(**hour))),
            "latency of an hour": (SEARCHES, lambda: sink.latency(LatencyRequest(filter=TraceFilter(**hour)))),
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
    return found


@functools.cache
def _template(number: int) -> pa.Table:
    return from_batch(fields_of(made.columnar(BATCH, number * BATCH)), time.time_ns())[0]


def _table(first: int, start: int, step: int) -> pa.Table:
    """Return a batch of spans with ids and times of their own; the rest repeats."""
    table = _template(first // BATCH % 4)
    numbers = range(first, first + BATCH, made.PER_TRACE)
    places = pa.array(np.arange(BATCH) // made.PER_TRACE, pa.int32())
    begun = start + np.arange(first, first + BATCH) * step
    length = table["end_ns"].to_numpy() - table["start_ns"].to_numpy()
    for name, column in (
        ("start_ns", pa.array(begun)),
        ("end_ns", pa.array(begun + length)),
        ("trace_id", _repeated(places, [made.trace_id(number) for number in numbers])),
        ("correlation_id", _repeated(places, [f"order-{number // made.PER_TRACE}" for number in numbers])),
        ("span_id", pa.array([f"{number + 1:016x}" for number in range(first, first + BATCH)])),
        (
            "parent_span_id",
            pa.array([f"{n:016x}" if n % made.PER_TRACE else "" for n in range(first, first + BATCH)]),
        ),
    ):
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _repeated(places: pa.Array, texts: list[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(places, pa.array(texts)).cast(pa.string())
