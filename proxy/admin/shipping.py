"""The edge's records on their way to the sinks, in batches, off the path of calls: a log record and a span of each."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.api.logsink.v1 import LogBatch, TextColumn
from mesh.edge import EDGE_SERVICE
from mesh.resilience.outcome import CANCELLED, OK, code_name, has_server_failed
from mesh.telemetry.kinds import LOGS, SPANS
from mesh.telemetry.record import ERROR, INFO, WARN, column
from mesh.telemetry.sampling import Sampler
from mesh.telemetry.shipper import Shipper, ShipperOptions
from proxy.admin.access_log import Drain
from proxy.admin.service import EdgeInfo
from proxy.admin.spans import kept, span_batch
from proxy.call.call import Call
from proxy.options import EdgeOptions

# Of one batch; a second of full load is several.
MAX_RECORDS = 5_000


@contextlib.asynccontextmanager
async def shipping(options: EdgeOptions, info: EdgeInfo, registry: CollectorRegistry) -> AsyncIterator[Drain]:
    """Ship while the context is open; yields what takes the access log's records."""
    instance_id, known = info.instance_id, info.configuration
    release_at = known.release_at if known is not None else (lambda _moment: 0)
    bounds = ShipperOptions(spool=Path(options.spool) if options.spool else None)
    sampler = Sampler(options.tracing)
    async with (
        Shipper(options.control, instance_id, bounds, LOGS) as logs,
        Shipper(options.control, instance_id, bounds, SPANS) as spans,
    ):
        registry.register(_Counters(logs, spans))

        def drain(records: Sequence[tuple[int, Call]], lines: Sequence[str]) -> None:
            for first in range(0, len(records), MAX_RECORDS):
                last = first + MAX_RECORDS
                logs.put(access_batch(records[first:last], lines[first:last], instance_id))
                if traced := kept(records[first:last], sampler):
                    spans.put(span_batch(traced, instance_id, release_at))

        yield drain


def access_batch(records: Sequence[tuple[int, Call]], lines: Sequence[str], instance_id: str) -> LogBatch:
    """Return calls as log records of the edge; the access log's line of each is its attributes."""
    # Not set where a call ended before it was looked at.
    parents = [getattr(call, "traceparent", b"").decode() for _, call in records]
    return LogBatch(
        ts_ns=[ended_ns for ended_ns, _ in records],
        severity_number=[_severity(call) for _, call in records],
        body=column([f"{call.method.decode('ascii', 'replace')} {code_name(call.status)}" for _, call in records]),
        trace_id=TextColumn(values=[one[3:35] for one in parents]),
        span_id=TextColumn(values=[one[36:52] for one in parents]),
        correlation_id=TextColumn(values=[call.correlation_id.decode("ascii", "replace") for _, call in records]),
        service=TextColumn(values=(EDGE_SERVICE,)),
        instance=TextColumn(values=(instance_id,)),
        event_name=TextColumn(values=("access",)),
        attributes=TextColumn(values=lines),
    )


def _severity(call: Call) -> int:
    # Who hangs up is not in trouble: so ends every stream that is watched.
    return INFO if call.status in (OK, CANCELLED) else ERROR if has_server_failed(call.status) else WARN


class _Counters(Collector):
    def __init__(self, *shippers: Shipper) -> None:
        self._shippers = shippers

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "mesh_edge_telemetry_records",
            "Log records and spans for the sinks, by what became of them.",
            labels=("kind", "outcome"),
        )
        for shipper in self._shippers:
            for outcome in ("shipped", "dropped", "rejected"):
                family.add_metric((shipper.kind.name, outcome), getattr(shipper.stats, outcome))
        yield family
