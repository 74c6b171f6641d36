"""How metrics lie in the columnar store.

`metric_samples` has a row a sample; a null value is the stale marker, whose bits not every database would keep.
`metric_series` says what labels an identity stands for, once for each period that has samples of it, so that retention
takes series along with their last samples. `metric_names` has types, units and help, in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from services.metrics.promql.data import STALE, Floats, Ints, is_stale
from services.metrics.promql.labels import Labels
from services.metrics.samples import Meta
from services.storage.columns.base import HOUR_NS, TableSchema, Type

SAMPLES = "metric_samples"
SERIES = "metric_series"
NAMES = "metric_names"
PERIOD_NS = 6 * HOUR_NS
PERIOD_MS = PERIOD_NS // 1_000_000


def schemas(max_age: float) -> tuple[TableSchema, ...]:
    """Return the tables of metrics, kept for `max_age` seconds."""
    columns: dict[str, tuple[str, Mapping[str, Type]]] = {
        SAMPLES: ("ts_ms", {"series_id": Type.BIGINT, "ts_ms": Type.BIGINT, "value": Type.DOUBLE}),
        SERIES: ("seen_ms", {"series_id": Type.BIGINT, "seen_ms": Type.BIGINT, "labels": Type.TEXT}),
        NAMES: (
            "seen_ms",
            {"name": Type.TEXT, "seen_ms": Type.BIGINT, "type": Type.TEXT, "unit": Type.TEXT, "help": Type.TEXT},
        ),
    }
    return tuple(
        TableSchema(name, kinds, time=time, time_unit_ns=1_000_000, period_ns=PERIOD_NS, max_age=max_age)
        for name, (time, kinds) in columns.items()
    )


def samples_table(ids: Ints, ts: Ints, values: Floats) -> pa.Table:
    """Return rows of `metric_samples`."""
    stale = is_stale(values)
    column = pa.array(values, mask=stale) if stale.any() else pa.array(values)
    return pa.table({"series_id": pa.array(ids), "ts_ms": pa.array(ts), "value": column})


def read_samples(rows: pa.Table) -> tuple[Ints, Ints, Floats]:
    """Return identities, times and values, stale markers in place."""
    column = rows.column("value")
    values = column.to_numpy() if not column.null_count else _with_markers(column)
    return rows.column("series_id").to_numpy(), rows.column("ts_ms").to_numpy(), values


def _with_markers(column: pa.ChunkedArray) -> Floats:
    stale = column.is_null().to_numpy()
    values = np.array(column.fill_null(0.0).to_numpy(), np.float64)
    values[stale] = STALE
    return values


def series_table(ids: Sequence[int], seen: Sequence[int], labels: Iterable[Labels]) -> pa.Table:
    """Return rows of `metric_series`."""
    texts = [json.dumps(dict(one), separators=(",", ":"), ensure_ascii=False) for one in labels]
    return pa.table(
        {
            "series_id": pa.array(ids, pa.int64()),
            "seen_ms": pa.array(seen, pa.int64()),
            "labels": pa.array(texts, pa.string()),
        }
    )


def names_table(meta: Mapping[str, Meta], seen_ms: int) -> pa.Table:
    """Return rows of `metric_names`."""
    return pa.table(
        {
            "name": pa.array(list(meta), pa.string()),
            "seen_ms": pa.array([seen_ms] * len(meta), pa.int64()),
            "type": pa.array([one.type for one in meta.values()], pa.string()),
            "unit": pa.array([one.unit for one in meta.values()], pa.string()),
            "help": pa.array([one.help for one in meta.values()], pa.string()),
        }
    )
