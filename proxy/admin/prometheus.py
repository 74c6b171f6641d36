"""The edge's numbers as Prometheus metrics, made when somebody scrapes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import mesh
from mesh.resilience.outcome import code_name
from mesh.resilience.retry_budget import RetryBudget
from proxy.admin.service import EdgeInfo
from proxy.admin.state import MeshState
from proxy.interceptors.metrics import BUCKETS, MethodStats
from proxy.routing.mirror import MirrorCounts
from proxy.stack import Stack

_METHOD = ("listener", "service", "method")
_ENDPOINT = ("service", "instance", "endpoint")


class EdgeCollector(Collector):
    """Reads the counts that the interceptors keep."""

    def __init__(self, stack: Stack, state: MeshState, info: EdgeInfo) -> None:
        self._stack = stack
        self._state = state
        self._info = info

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
        yield from self._calls()
        yield from self._endpoints()
        yield from self._retries()
        yield from self._edge()

    def _calls(self) -> Iterator[Metric]:
        calls = CounterMetricFamily("mesh_edge_calls", "Calls that ended.", labels=(*_METHOD, "code"))
        seconds = HistogramMetricFamily("mesh_edge_call_duration_seconds", "How long calls took.", labels=_METHOD)
        received = CounterMetricFamily("mesh_edge_received_bytes", "Message bytes from clients.", labels=_METHOD)
        sent = CounterMetricFamily("mesh_edge_sent_bytes", "Message bytes to clients.", labels=_METHOD)
        flight = GaugeMetricFamily("mesh_edge_calls_in_flight", "Calls under way.", labels=_METHOD)
        local = CounterMetricFamily(
            "mesh_edge_local_replies", "Calls that the edge answered itself, and why.", labels=(*_METHOD, "reason")
        )
        for listener, stats in self._stack.metrics.snapshot():
            labels = (listener, stats.service, stats.method)
            for code, count in stats.codes.items():
                calls.add_metric((*labels, code_name(code)), count)
            seconds.add_metric(labels, _cumulative(stats), stats.seconds)
            received.add_metric(labels, stats.bytes_in)
            sent.add_metric(labels, stats.bytes_out)
            flight.add_metric(labels, stats.in_flight)
            for reason, count in stats.reasons.items():
                local.add_metric((*labels, reason), count)
        yield from (calls, seconds, received, sent, flight, local)

    def _endpoints(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "mesh_edge_breaker_state", "Circuit breaker: 0 closed, 1 half-open, 2 open.", labels=_ENDPOINT
        )
        flight = GaugeMetricFamily("mesh_edge_endpoint_calls_in_flight", "Attempts under way.", labels=_ENDPOINT)
        attempts = CounterMetricFamily("mesh_edge_endpoint_attempts", "Attempts that began.", labels=_ENDPOINT)
        failures = CounterMetricFamily("mesh_edge_endpoint_failures", "Attempts that failed.", labels=_ENDPOINT)
        ejected = GaugeMetricFamily(
            "mesh_edge_endpoint_ejected", "1 while an endpoint is set aside as an outlier.", labels=_ENDPOINT
        )
        ejections = CounterMetricFamily(
            "mesh_edge_endpoint_ejections", "How often an endpoint was set aside.", labels=_ENDPOINT
        )
        now = self._info.clock.now()
        for endpoint in self._state.pool.all():
            labels = (endpoint.service, endpoint.instance_id, endpoint.address)
            state.add_metric(labels, endpoint.breaker.state)
            flight.add_metric(labels, endpoint.in_flight)
            attempts.add_metric(labels, endpoint.calls)
            failures.add_metric(labels, endpoint.failures)
            if (outlier := endpoint.outlier) is not None:
                ejected.add_metric(labels, outlier.ejected_until > now)
                ejections.add_metric(labels, outlier.ejections)
        yield from (state, flight, attempts, failures, ejected, ejections)

    def _retries(self) -> Iterator[Metric]:
        made = CounterMetricFamily("mesh_edge_retries", "Attempts that a policy had made again.", labels=("service",))
        refused = CounterMetricFamily(
            "mesh_edge_retries_refused", "Attempts not made again for want of budget.", labels=("service",)
        )
        for service, one in self._state.plans.kept.all():
            if isinstance(one, RetryBudget):
                made.add_metric((service,), one.granted)
                refused.add_metric((service,), one.refused)
        yield from (made, refused)

    def _edge(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("mesh_edge_info", "What runs.", labels=("version", "engine", "instance"))
        info.add_metric((mesh.__version__, self._info.engine, self._info.instance_id), 1)
        yield info
        yield GaugeMetricFamily(
            "mesh_edge_registry_connected", "1 while the registry is in reach.", value=self._info.registry_connected()
        )
        yield GaugeMetricFamily(
            "mesh_edge_registry_revision", "The registry's revision in force.", value=self._state.directory.revision
        )
        from_disk, held = self._info.registry_doubts()
        yield GaugeMetricFamily(
            "mesh_edge_registry_from_disk", "1 while routes come from the last state on disk.", value=from_disk
        )
        yield GaugeMetricFamily(
            "mesh_edge_registry_held_instances",
            "Instances in force that a registry which began anew does not know (yet).",
            value=held,
        )
        yield from self._configuration()
        log = self._stack.access_log
        yield CounterMetricFamily(
            "mesh_edge_access_log_dropped", "Access log records that found no room.", value=log.dropped if log else 0
        )

    def _configuration(self) -> Iterator[Metric]:
        known = self._info.configuration
        if known is not None:
            yield GaugeMetricFamily(
                "mesh_edge_config_connected", "1 while the configuration is in reach.", value=known.connected
            )
            yield GaugeMetricFamily(
                "mesh_edge_config_release", "The release of mesh.edge in force, 0 without any.", value=known.release
            )
            yield GaugeMetricFamily(
                "mesh_edge_config_rejected",
                "The release that came last, if it was rejected; else 0.",
                value=known.rejected,
            )
        copies = CounterMetricFamily(
            "mesh_edge_mirrored",
            "Copies of requests: sent, failed among these, and dropped.",
            labels=("service", "kind"),
        )
        flight = GaugeMetricFamily("mesh_edge_mirrored_in_flight", "Copies under way.", labels=("service",))
        for service, counts in sorted(self._copies().items()):
            for kind, count in zip(("sent", "failed", "dropped"), counts, strict=False):
                copies.add_metric((service, kind), count)
            flight.add_metric((service,), counts[-1])
        yield from (copies, flight)

    def _copies(self) -> dict[str, tuple[int, int, int, int]]:
        """Return what became of copies, by the service that they went to."""
        found: dict[str, tuple[int, int, int, int]] = {}
        for _, one in self._state.plans.kept.all():
            if isinstance(one, MirrorCounts):
                before = found.get(one.service, (0, 0, 0, 0))
                now = (one.sent, one.failed, one.dropped, one.in_flight)
                found[one.service] = tuple(map(sum, zip(before, now, strict=True)))  # type: ignore[assignment] # four
        return found


def _cumulative(stats: MethodStats) -> list[tuple[str, float]]:
    bounds = (*map(str, BUCKETS), "+Inf")
    return list(zip(bounds, itertools.accumulate(stats.slots), strict=True))


def edge_registry(stack: Stack, state: MeshState, info: EdgeInfo) -> CollectorRegistry:
    """Return what is scraped of an edge's calls."""
    registry = CollectorRegistry()
    registry.register(EdgeCollector(stack, state, info))
    return registry
