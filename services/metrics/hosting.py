"""Metrics in the control process: what is served of them over gRPC and HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from mesh.api.metrics.v1 import add_MetricsServicer_to_server
from mesh.errors import StartError
from services.forwarding.forwarding import Forwarding
from services.forwarding.options import Signal
from services.host import Hosted
from services.metrics.alerts.receivers import Receiver
from services.metrics.decoding import Decoding
from services.metrics.http.app import Api
from services.metrics.http.server import serve_http
from services.metrics.options import MetricsOptions
from services.metrics.otlp.servicer import OtlpMetrics
from services.metrics.own import own_registry
from services.metrics.pull.itself import keep_itself
from services.metrics.service import Metrics, metrics_service
from services.metrics.servicer import GrpcMetrics
from services.names import METRICS, OTLP_METRICS
from services.registry.domain import Registry
from services.storage.columns.base import ColumnsError, ColumnStore
from services.storage.kv.base import Store

# It takes what is a server to it alone.
_add: Any = add_MetricsServicer_to_server


@dataclass(frozen=True, slots=True)
class HostedMetrics:
    """What of it the control process serves."""

    services: tuple[Hosted, ...]
    metrics: Metrics
    # What the process tells of itself: others may register what they count.
    own: CollectorRegistry


@contextlib.asynccontextmanager
async def hosted_metrics(
    columns: ColumnStore,
    kv: Store,
    registry: Registry,
    *,
    me: tuple[str, str],
    http: socket.socket | None = None,
    receivers: Sequence[Receiver] = (),
    disks: Sequence[Path] = (),
    forwarding: Forwarding | None = None,
    options: MetricsOptions | None = None,
) -> AsyncIterator[HostedMetrics]:
    """Run the service while the context is open, with samples in `columns`, and rules and alerts in `kv`.

    The process' own metrics are served by `http`, as is Prometheus' API; without that they are stored in place, as of
    `me`, its service and instance. The socket has an address, and stays its owner's.

    Raises:
        StartError: the store cannot be read.

    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            metrics = await stack.enter_async_context(
                metrics_service(columns, kv, registry, receivers=receivers, options=options)
            )
        except ColumnsError as error:
            raise StartError(f"the telemetry store cannot be read: {error}") from error
        servicer = GrpcMetrics(metrics.store, metrics.queries, metrics.scraper, metrics.keeper)
        otlp = OtlpMetrics(metrics.store, forwarding)
        if forwarding is not None and forwarding.wants(Signal.METRICS):
            metrics.store.tap = forwarding.samples

        def broken() -> None:
            metrics.store.rejected["undecodable"] += 1

        def too_large() -> None:
            metrics.store.rejected["too_large"] += 1

        services = (
            Hosted(METRICS, lambda server: _add(servicer, Decoding(server, broken))),
            Hosted(OTLP_METRICS, lambda server: otlp.add_to(Decoding(server, broken, too_large))),
        )
        own = own_registry(metrics.collector, disks)
        if http is not None:
            await stack.enter_async_context(serve_http(Api(metrics, own).app(), http))
        else:
            await stack.enter_async_context(_running(keep_itself(metrics.store, own, *me)))
        yield HostedMetrics(services, metrics, own)


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
