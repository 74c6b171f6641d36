"""Counts and durations of calls by method and code, kept in plain lists and read when somebody asks."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.resilience.outcome import code_name

# Seconds: OpenTelemetry's advice for rpc.server.call.duration, with finer steps below 5 ms.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_BOUNDS = (*map(str, BUCKETS), "+Inf")


class MethodStats:
    """The numbers of one method."""

    __slots__ = ("by_code", "in_flight", "labels")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.in_flight = 0
        # By code: calls per bucket, the last one beyond all bounds, and after it the sum of their seconds.
        self.by_code: dict[int, list[float]] = {}

    def ended(self, code: int, seconds: float) -> None:
        """Count a call that is no longer in flight."""
        self.in_flight -= 1
        counts = self.by_code.get(code)
        if counts is None:
            counts = self.by_code[code] = [0.0] * (len(BUCKETS) + 2)
        counts[bisect_left(BUCKETS, seconds)] += 1
        counts[-1] += seconds


class CallMetrics(Collector):
    """The numbers of all methods that this process serves ("server"), or calls ("client")."""

    def __init__(self, side: str, labels: tuple[str, ...]) -> None:
        """Have methods told apart by `labels`, the first of which is `rpc_method`."""
        self._side = side
        self._labels = labels
        self._stats: dict[tuple[str, ...], MethodStats] = {}

    def of(self, *labels: str) -> MethodStats:
        """Return the numbers of a method. The set of methods must be bounded by the program, not by its callers."""
        found = self._stats.get(labels)
        if found is None:
            found = self._stats[labels] = MethodStats(labels)
        return found

    def all(self) -> list[MethodStats]:
        """Return the numbers of all methods."""
        return list(self._stats.values())

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
        seconds = HistogramMetricFamily(
            f"rpc_{self._side}_call_duration_seconds",
            "How long calls took, by what became of them.",
            labels=(*self._labels, "rpc_status_code"),
        )
        flight = GaugeMetricFamily(f"rpc_{self._side}_calls_in_flight", "Calls under way.", labels=self._labels)
        for stats in self.all():
            flight.add_metric(stats.labels, stats.in_flight)
            for code, counts in list(stats.by_code.items()):
                cumulative = itertools.accumulate(counts[:-1])
                seconds.add_metric(
                    (*stats.labels, code_name(code)), list(zip(_BOUNDS, cumulative, strict=True)), counts[-1]
                )
        yield from (seconds, flight)
