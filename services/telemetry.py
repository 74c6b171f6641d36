"""The telemetry services, on their columnar store: logs, spans and metrics.

What is imported here takes seconds on a busy machine: the control process loads it when it serves the rest already.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from services.forwarding.forwarding import Forwarding
from services.forwarding.options import Target
from services.host import Hosted
from services.ingested import Ingested
from services.logsink.domain import LogSink
from services.logsink.records import LOGS
from services.logsink.servicer import GrpcLogSink
from services.metrics import tables as metric_tables
from services.metrics.alerts.receivers import Receiver
from services.metrics.hosting import hosted_metrics
from services.metrics.options import MetricsOptions
from services.names import LOG_SINK, OTLP_LOGS
from services.registry.domain import Registry
from services.retention import Retention
from services.storage.columns.base import Options as StoreOptions
from services.storage.columns.retaining import retaining
from services.storage.columns.urls import open_columns
from services.storage.kv.base import Store
from services.tracesink.domain import TraceSink
from services.tracesink.records import SPANS
from services.tracesink.servicer import hosted as hosted_traces


@contextlib.asynccontextmanager
async def telemetry(
    url: str,
    kv: Store,
    registry: Registry,
    *,
    me: tuple[str, str],
    http: socket.socket | None = None,
    receivers: Sequence[Receiver] = (),
    disks: Sequence[Path] = (),
    forward: Sequence[Target] = (),
    spool: Path | None = None,
    keep: Retention | None = None,
) -> AsyncIterator[list[Hosted]]:
    """Run the services of `services.names.TELEMETRY` on the columnar store at `url` while the context is open.

    They are the control process' that is registered as `me`, a service and an instance, and writes to `disks`. What
    comes in is sent on to `forward`, and waits in `spool`. `keep` says how long it is kept.

    Raises:
        StartError: the store cannot be used.

    """
    keep = keep or Retention()
    schemas = (replace(LOGS, max_age=keep.logs), replace(SPANS, max_age=keep.traces))
    async with (
        open_columns(
            url, (*schemas, *metric_tables.schemas(keep.metrics)), StoreOptions(max_bytes=keep.size)
        ) as columns,
        retaining(columns),
        Forwarding(forward, me[1], spool) as forwarding,
        hosted_metrics(
            columns,
            kv,
            registry,
            me=me,
            http=http,
            receivers=receivers,
            disks=disks,
            forwarding=forwarding,
            options=MetricsOptions(max_age=keep.metrics),
        ) as metrics,
    ):
        logs, traces = LogSink(columns, forwarding=forwarding), TraceSink(columns, forwarding=forwarding)
        metrics.own.register(forwarding)
        metrics.own.register(Ingested(logs.counters, traces.counters, metrics.metrics, lambda: columns.stats))
        served = GrpcLogSink(logs)
        yield [
            Hosted(LOG_SINK, served.add_to),
            Hosted(OTLP_LOGS, served.add_otlp_to),
            *hosted_traces(traces),
            *metrics.services,
        ]
