"""Metrics of the control process itself: its resources, and what the metrics service does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.metrics.alerts.delivery import Delivery
from services.metrics.store import MetricStore

# How often the lag of the event loop is measured.
LAG_SECONDS = 0.5


class Lag:
    """How late the event loop comes to what is due: the worst of the last seconds. `run` is its task."""

    def __init__(self) -> None:
        self._recent: list[float] = [0.0] * 20

    @property
    def seconds(self) -> float:
        return max(self._recent)

    async def run(self) -> None:
        """Measure without end."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self._recent = [*self._recent[1:], max(0.0, loop.time() - due)]


class ControlCollector(Collector):
    """Counts of the metrics service."""

    def __init__(self, store: MetricStore, deliveries: Sequence[Delivery], lag: Callable[[], float]) -> None:
        self._store = store
        self._deliveries = deliveries
        self._lag = lag

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
        yield GaugeMetricFamily(
            "mesh_event_loop_lag_seconds", "How late the event loop is, at worst of the last 10 s.", value=self._lag()
        )
        yield GaugeMetricFamily("mesh_metrics_series", "Series that are known.", value=len(self._store.index))
        yield CounterMetricFamily("mesh_metrics_samples", "Samples stored.", value=self._store.accepted)
        rejected = CounterMetricFamily("mesh_metrics_rejected_samples", "Samples refused for good.", labels=("reason",))
        for reason in ("series", "time"):
            rejected.add_metric((reason,), self._store.rejected[reason])
        yield rejected
        yield CounterMetricFamily(
            "mesh_metrics_undecodable_requests", "Requests that were no messages.", self._store.rejected["undecodable"]
        )
        yield CounterMetricFamily(
            "mesh_alerts_delivered", "Alerts that receivers took.", value=sum(one.delivered for one in self._deliveries)
        )
        yield CounterMetricFamily(
            "mesh_alert_delivery_failures",
            "Deliveries of alerts that failed, and are tried again.",
            value=sum(one.failures for one in self._deliveries),
        )


def own_registry(collector: ControlCollector) -> CollectorRegistry:
    """Return all that is scraped from a control process."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
