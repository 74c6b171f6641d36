"""The access log's way to the log sink: a record a call, in batches, off the path of calls."""

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
from mesh.resilience.outcome import code_name
from mesh.telemetry.record import ERROR, INFO, WARN, column
from mesh.telemetry.shipper import Shipper, ShipperOptions
from proxy.admin.access_log import Drain
from proxy.call.call import Call
from proxy.options import EdgeOptions

# Of one batch; a second of full load is several.
MAX_RECORDS = 5_000

# By the number of a gRPC code: what a server or the way to it did wrong, and what a client did.
_SERVER = {2, 4, 12, 13, 14, 15}


@contextlib.asynccontextmanager
async def shipping(options: EdgeOptions, instance_id: str, registry: CollectorRegistry) -> AsyncIterator[Drain]:
    """Ship while the context is open; yields what takes the access log's records."""
    spool = Path(options.spool) if options.spool else None
    async with Shipper(options.control, instance_id, ShipperOptions(spool=spool)) as shipper:
        registry.register(_Counters(shipper))

        def drain(records: Sequence[tuple[int, Call]], lines: Sequence[str]) -> None:
            for first in range(0, len(records), MAX_RECORDS):
                last = first + MAX_RECORDS
                shipper.put(access_batch(records[first:last], lines[first:last], instance_id))

        yield drain


def access_batch(records: Sequence[tuple[int, Call]], lines: Sequence[str], instance_id: str) -> LogBatch:
    """Return calls as log records of the edge; the access log's line of each is its attributes."""
    return LogBatch(
        ts_ns=[ended_ns for ended_ns, _ in records],
        severity_number=[_severity(call) for _, call in records],
        body=column([f"{call.method.decode('ascii', 'replace')} {code_name(call.status)}" for _, call in records]),
        correlation_id=TextColumn(values=[call.correlation_id.decode("ascii", "replace") for _, call in records]),
        service=TextColumn(values=(EDGE_SERVICE,)),
        instance=TextColumn(values=(instance_id,)),
        event_name=TextColumn(values=("access",)),
        attributes=TextColumn(values=lines),
    )


def _severity(call: Call) -> int:
    return INFO if call.status == 0 else ERROR if call.status in _SERVER else WARN


class _Counters(Collector):
    def __init__(self, shipper: Shipper) -> None:
        self._shipper = shipper

    def collect(self) -> Iterator[Metric]:
        stats = self._shipper.stats
        family = CounterMetricFamily(
            "mesh_edge_telemetry_records", "Records for the log sink, by what became of them.", labels=("outcome",)
        )
        for outcome in ("shipped", "dropped", "rejected"):
            family.add_metric((outcome,), getattr(stats, outcome))
        yield family
