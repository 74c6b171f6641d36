"""The metrics service, put together: store, queries, scraping, alerts, and their tasks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from mesh.clock import Clock
from mesh.errors import MeshError
from mesh.telemetry.lag import LoopLag
from services.metrics.alerts.delivery import Delivery
from services.metrics.alerts.keeper import Keeper
from services.metrics.alerts.receivers import Receiver
from services.metrics.alerts.records import Records
from services.metrics.options import MetricsOptions
from services.metrics.own import ControlCollector
from services.metrics.pull.presence import Presence
from services.metrics.pull.scraper import Scraper
from services.metrics.query import Queries
from services.metrics.store import MetricStore
from services.registry.domain import Registry
from services.storage.columns.base import ColumnStore
from services.storage.kv.base import Store

# How often series are forgotten whose samples are gone.
FORGET_SECONDS = 600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Metrics:
    """What the servicers and the HTTP API stand on."""

    store: MetricStore
    queries: Queries
    scraper: Scraper
    keeper: Keeper
    collector: ControlCollector


@contextlib.asynccontextmanager
async def metrics_service(
    columns: ColumnStore,
    kv: Store,
    registry: Registry,
    *,
    receivers: Sequence[Receiver] = (),
    options: MetricsOptions | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Metrics]:
    """Run the service on open stores while the context is open.

    Raises:
        StorageError: one of the stores cannot be read.

    """
    store = MetricStore(columns, options, clock)
    await store.load()
    lag = LoopLag()
    async with Queries(store) as queries, Records(kv) as kept, Scraper(store) as scraper:
        keeper = Keeper(store, queries, kept)
        presence = Presence(registry, store, scraper.follow)
        deliveries = [Delivery(receiver, keeper, store) for receiver in receivers]
        works = [
            *(presence.run(), presence.beat(), keeper.run(), lag.run(), _forget(store)),
            *(delivery.run() for delivery in deliveries),
        ]
        tasks = [asyncio.create_task(work) for work in works]
        for task in tasks:
            task.add_done_callback(_report)
        try:
            yield Metrics(store, queries, scraper, keeper, ControlCollector(store, deliveries, lag))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _forget(store: MetricStore) -> None:
    while True:
        await asyncio.sleep(FORGET_SECONDS)
        store.forget_old()


def _report(task: asyncio.Task[None]) -> None:
    """Say so when one of the tasks, which run for ever, ends by an error."""
    if not task.cancelled() and (error := task.exception()) is not None:
        level = logging.WARNING if isinstance(error, MeshError) else logging.ERROR
        _log.log(level, "a part of the metrics service ended: %s", error, exc_info=error)
