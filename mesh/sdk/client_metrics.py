"""What this process knows of those that it calls, as metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.sdk.discovery import Discovery

_ENDPOINT = ("peer_service", "peer_instance", "endpoint")


class ClientMetrics(Collector):
    """Endpoints, breakers, ejections and retries, read when somebody asks."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
        state = GaugeMetricFamily(
            "mesh_client_breaker_state", "Circuit breaker: 0 closed, 1 half-open, 2 open.", labels=_ENDPOINT
        )
        flight = GaugeMetricFamily("mesh_client_endpoint_calls_in_flight", "Attempts under way.", labels=_ENDPOINT)
        attempts = CounterMetricFamily("mesh_client_endpoint_attempts", "Attempts that began.", labels=_ENDPOINT)
        failures = CounterMetricFamily("mesh_client_endpoint_failures", "Attempts that failed.", labels=_ENDPOINT)
        ejected = GaugeMetricFamily("mesh_client_endpoint_ejected", "1 while it is set aside.", labels=_ENDPOINT)
        made = CounterMetricFamily("mesh_client_retries", "Attempts that a policy had made.", labels=("peer_service",))
        refused = CounterMetricFamily(
            "mesh_client_retries_refused", "Attempts not made again for want of budget.", labels=("peer_service",)
        )
        for upstream in self._discovery.upstreams():
            now = upstream.now()
            for one in upstream.endpoints:
                labels = (upstream.name, one.instance.instance_id, one.address)
                state.add_metric(labels, one.breaker.state)
                flight.add_metric(labels, one.in_flight)
                attempts.add_metric(labels, one.calls)
                failures.add_metric(labels, one.failures)
                if one.outlier is not None:
                    ejected.add_metric(labels, one.outlier.ejected_until > now)
            if upstream.budget is not None:
                made.add_metric((upstream.name,), upstream.budget.granted)
                refused.add_metric((upstream.name,), upstream.budget.refused)
        yield from (state, flight, attempts, failures, ejected, made, refused)
        yield GaugeMetricFamily(
            "mesh_client_registry_connected", "1 while the registry is in reach.", value=self._discovery.connected
        )
        yield GaugeMetricFamily(
            "mesh_client_config_release",
            "The release of mesh.edge in force, 0 without any.",
            value=self._discovery.release,
        )
