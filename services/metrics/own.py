"""Metrics of the control process itself: its resources, and what the metrics service does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.telemetry import resources
from mesh.telemetry.lag import LoopLag
from services.metrics.alerts.delivery import Delivery
from services.metrics.store import MetricStore


class ControlCollector(Collector):
    """Counts of the metrics service."""

    def __init__(self, store: MetricStore, deliveries: Sequence[Delivery], lag: LoopLag) -> None:
        self._store = store
        self._deliveries = deliveries
        self.lag = lag

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
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


def own_registry(collector: ControlCollector, disks: Sequence[Path] = ()) -> CollectorRegistry:
    """Return all that is scraped from a control process, which writes to `disks`."""
    registry = CollectorRegistry()
    registry.register(collector)
    registry.register(collector.lag)
    resources.register(registry, disks=("/", *disks))
    return registry
