"""A metric store on a real DuckDB, and samples for it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mesh.testing.clock import ManualClock
from services.metrics import tables
from services.metrics.options import MetricsOptions
from services.metrics.promql.labels import Labels, from_mapping
from services.metrics.samples import Meta, Samples
from services.metrics.store import MetricStore
from services.storage.columns.urls import open_columns

# In milliseconds: a moment of the clock that the tests give.
NOW = 1_700_000_000_000


def clock_at(now_ms: int = NOW) -> ManualClock:
    clock = ManualClock()
    clock.advance((now_ms * 1_000_000 - clock.wall_ns()) / 1e9)
    return clock


@contextlib.asynccontextmanager
async def opened(
    folder: Path, options: MetricsOptions | None = None, clock: ManualClock | None = None
) -> AsyncIterator[MetricStore]:
    options = options or MetricsOptions()
    clock = clock or clock_at()
    async with open_columns(f"duckdb://{folder}/telemetry.db", tables.schemas(options.max_age), clock=clock) as columns:
        store = MetricStore(columns, options, clock)
        await store.load()
        yield store


def labels(text: str, **more: str) -> Labels:
    return from_mapping({"__name__": text, **more})


def samples(series: Mapping[Labels, Sequence[tuple[float, float]]], meta: Mapping[str, Meta] | None = None) -> Samples:
    """Return samples by series: (seconds after NOW, value)."""
    which, ts, values = [], [], []
    for i, points in enumerate(series.values()):
        for at, value in points:
            which.append(i)
            ts.append(NOW + round(at * 1000))
            values.append(value)
    return Samples(
        list(series), np.array(which, np.int64), np.array(ts, np.int64), np.array(values, np.float64), meta or {}
    )
