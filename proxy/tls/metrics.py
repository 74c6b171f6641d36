"""What monitoring needs to know of certificates."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.tls.identity import Tls

_LABELS = ("of",)


class TlsCollector(Collector):
    """Reads what is in force."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
        ends = GaugeMetricFamily(
            "mesh_edge_tls_not_after_seconds", "When the certificate in force ends, since 1970.", labels=_LABELS
        )
        failures = CounterMetricFamily(
            "mesh_edge_tls_reload_failures", "Changed TLS files that could not be used.", labels=_LABELS
        )
        for identity in self._tls.identities:
            failures.add_metric((identity.name,), identity.failures)
            end = identity.not_after
            if end is not None:
                ends.add_metric((identity.name,), end)
        yield from (ends, failures)
