"""What a process tells of itself: logs, spans and metrics, in batches; none of it ever delays a call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.messaging.spans import set_recorder
from mesh.sdk.logs import LogHandler
from mesh.sdk.options import JoinOptions
from mesh.sdk.spans import SpanLog
from mesh.telemetry import resources
from mesh.telemetry.blocking import BlockingWatch
from mesh.telemetry.kinds import LOGS, SPANS
from mesh.telemetry.lag import LoopLag
from mesh.telemetry.metrics_push import MetricsPusher, PusherOptions
from mesh.telemetry.record import to_batch
from mesh.telemetry.shipper import Shipper, ShipperOptions
from mesh.telemetry.spans import to_span_batch

# How often what waits is handed on, and how much of it at a time.
EVERY_SECONDS = 0.5
BATCH = 2_000
CLOSE_SECONDS = 1.0


@contextlib.asynccontextmanager
async def telling(
    options: JoinOptions, spans: SpanLog, handler: LogHandler, registry: CollectorRegistry
) -> AsyncIterator[None]:
    """Ship logs and spans, and push metrics, while the context is open."""
    spool = options.state / "spool" if options.state is not None else None
    bounds = ShipperOptions(spool=spool, close_seconds=CLOSE_SECONDS)
    lag, blocking = LoopLag(), BlockingWatch()
    resources.register(registry)
    registry.register(lag)
    registry.register(blocking)
    name = f"{options.service}/{options.instance_id}"
    token = set_recorder(spans.note)
    del token  # for as long as the process is in the mesh, and for all tasks that it starts
    logs = Shipper(options.control, name, bounds, LOGS)
    traces = Shipper(options.control, name, bounds, SPANS)
    registry.register(_Counters((logs, traces), spans, handler))
    pusher = MetricsPusher(
        options.control,
        registry,
        service=options.service,
        instance=options.instance_id,
        options=PusherOptions(close_seconds=CLOSE_SECONDS),
    )
    logging.root.addHandler(handler)
    with blocking:
        # Entered one by one, left together: each may take its time to send what is left.
        parts = (logs, traces, pusher)
        for part in parts:
            await part.__aenter__()
        tasks = [asyncio.create_task(lag.run()), asyncio.create_task(_hand_on(spans, handler, traces, logs))]
        try:
            yield
        finally:
            logging.root.removeHandler(handler)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            while _handed_on(spans, handler, traces, logs):
                pass
            await asyncio.gather(*(part.__aexit__(None, None, None) for part in parts))


async def _hand_on(spans: SpanLog, handler: LogHandler, traces: Shipper, logs: Shipper) -> None:
    while True:
        if not _handed_on(spans, handler, traces, logs):
            await asyncio.sleep(EVERY_SECONDS)
        else:
            # A batch takes some ms to encode: calls come in between.
            await asyncio.sleep(EVERY_SECONDS / 10)


def _handed_on(spans: SpanLog, handler: LogHandler, traces: Shipper, logs: Shipper) -> bool:
    """Hand a batch of each on; tells whether there is more."""
    if ended := spans.take(BATCH):
        traces.put(to_span_batch(ended))
    if records := handler.take(BATCH):
        logs.put(to_batch(records, time.time_ns()))
    return len(ended) == BATCH or len(records) == BATCH


class _Counters(Collector):
    def __init__(self, shippers: tuple[Shipper, ...], spans: SpanLog, handler: LogHandler) -> None:
        self._shippers = shippers
        self._spans, self._handler = spans, handler

    def collect(self) -> Iterator[Metric]:
        """Return what became of records."""
        family = CounterMetricFamily(
            "mesh_telemetry_records", "Records for the sinks, by what became of them.", labels=("kind", "outcome")
        )
        waited = {"logs": self._handler.dropped, "spans": self._spans.dropped}
        for shipper in self._shippers:
            stats, kind = shipper.stats, shipper.kind.name
            family.add_metric((kind, "shipped"), stats.shipped)
            family.add_metric((kind, "dropped"), stats.dropped + waited[kind])
            family.add_metric((kind, "rejected"), stats.rejected)
        yield family
