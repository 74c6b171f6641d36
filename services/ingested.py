"""What came in since the start and what was wrong with it, by signal, as metrics of the control process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.logsink.domain import Counters as LogCounters
from services.metrics.service import Metrics
from services.tracesink.domain import Counters as TraceCounters

_QUERIES = ("bad_query", "no_answer", "limit", "timeout", "busy", "unavailable")


class Ingested(Collector):
    """Reads what the sinks count.

    Reasons: `undecodable`, `too_large` and `pushed_back` are requests (no message, over the limit, to be sent again
    later), `rejected` requests or records that will never be stored, `absurd_time` records whose time was mended (logs,
    spans) or that were refused for it (samples), `cut` records that were too long, `too_many_series` samples.
    """

    def __init__(
        self, logs: LogCounters, traces: TraceCounters, metrics: Metrics, stored: Callable[[], Mapping[str, float]]
    ) -> None:
        """Take what counts; `stored` returns `ColumnStore.stats`."""
        self._stored = stored
        self._logs = logs
        self._traces = traces
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Return the counts as they are now."""
        store = self._metrics.store
        came = CounterMetricFamily("mesh_ingested_records", "Records stored, by signal.", labels=("signal",))
        for signal, count in (
            ("logs", self._logs.records),
            ("traces", self._traces.spans),
            ("metrics", store.accepted),
        ):
            came.add_metric((signal,), count)
        bad = CounterMetricFamily(
            "mesh_ingest_bad_input", "What was wrong with what came, by signal and reason.", labels=("signal", "reason")
        )
        for signal, reasons in self._reasons().items():
            for reason, count in reasons.items():
                bad.add_metric((signal, reason), count)
        failed = CounterMetricFamily(
            "mesh_metrics_query_failures", "PromQL without an answer, by reason.", labels=("reason",)
        )
        for reason in _QUERIES:
            failed.add_metric((reason,), self._metrics.queries.failures[reason])
        stored = self._stored()
        waiting = GaugeMetricFamily(
            "mesh_telemetry_store_waiting_bytes",
            "Of telemetry, on its way into the store: not durable yet (queue), and durable (journal).",
            labels=("place",),
        )
        waiting.add_metric(("queue",), stored["queued_bytes"])
        waiting.add_metric(("journal",), stored.get("journal_bytes", 0))
        failures = CounterMetricFamily(
            "mesh_telemetry_store_failures",
            "Transactions that the telemetry store could not write; they are tried again.",
        )
        failures.add_metric((), stored["failures"] + stored.get("flush_failures", 0))
        yield from (came, bad, failed, waiting, failures)

    def _reasons(self) -> Mapping[str, Mapping[str, int]]:
        metrics = self._metrics.store.rejected
        found = {
            signal: {
                "undecodable": one.undecodable,
                "too_large": one.too_large,
                "pushed_back": one.pushed_back,
                "rejected": one.rejected_batches,
                "absurd_time": one.absurd_times,
                "cut": one.cut,
            }
            for signal, one in (("logs", self._logs), ("traces", self._traces))
        }
        found["traces"]["rejected"] += self._traces.rejected_spans
        found["metrics"] = {
            **{reason: metrics[reason] for reason in ("undecodable", "too_large", "pushed_back")},
            "rejected": metrics["rejected"] + metrics["malformed"],
            "absurd_time": metrics["time"],
            "too_many_series": metrics["series"],
        }
        return found
