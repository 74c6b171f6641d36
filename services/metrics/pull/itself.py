"""The control process' own metrics, where it serves no HTTP to be scraped by: read in place."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
from prometheus_client import CollectorRegistry

from mesh.errors import MeshError
from mesh.telemetry.snapshot import Snapshots
from services.metrics.samples import Meta, Samples, source_of
from services.metrics.store import MetricStore

_log = logging.getLogger(__name__)


async def keep_itself(store: MetricStore, registry: CollectorRegistry, job: str, instance: str) -> None:
    """Store what `registry` says at every interval, without end, as of an instance."""
    snapshots = Snapshots(registry, {"job": job, "instance": instance}, store.options.max_series_per_target)
    while True:
        values = snapshots.take()
        series = list(values)
        samples = Samples(
            [one.labels for one in series],
            np.arange(len(series), dtype=np.int64),
            np.full(len(series), store.now_ms(), np.int64),
            np.array(list(values.values()), np.float64),
            {dict(one.labels)["__name__"]: Meta(one.type, one.unit, one.help) for one in series},
        )
        try:
            await store.append(samples, source=source_of(job, instance))
        except MeshError as error:
            _log.warning("the metrics of the control process could not be stored: %s", error)
        await asyncio.sleep(store.options.scrape_interval)
