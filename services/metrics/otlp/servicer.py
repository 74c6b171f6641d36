"""OTLP/gRPC for metrics: what any OpenTelemetry SDK sends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA

from services.forwarding.forwarding import Forwarding
from services.forwarding.options import Signal
from services.forwarding.origin import Origin
from services.metrics.decoding import Decoding
from services.metrics.otlp.convert import convert
from services.metrics.otlp.points import Totals
from services.metrics.status import Context, answering
from services.metrics.store import MetricStore
from services.names import OTLP_METRICS

# Deltas whose series was silent for so long are forgotten, in nanoseconds; and how many are looked after.
_FORGET_NS = 3600 * 10**9
_MANY_TOTALS = 100_000
# From this size on a request is read beside the event loop.
LARGE_BYTES = 200_000


class OtlpMetrics:
    """`opentelemetry.proto.collector.metrics.v1.MetricsService`; its reply is sent when the samples are durable."""

    def __init__(self, store: MetricStore, forwarding: Forwarding | None = None) -> None:
        """Store in `store`, and tell `forwarding` of what was stored, as it came."""
        self._store = store
        self._forwarding = forwarding
        self._totals = Totals()
        # Deltas are added up in the order that they come in, and only once they are durable.
        self._one_at_a_time = asyncio.Lock()

    def add_to(self, server: Decoding) -> None:
        """Serve it."""
        export: Any = self.export
        decode, encode = ExportMetricsServiceRequest.FromString, ExportMetricsServiceResponse.SerializeToString
        handler = grpc.unary_unary_rpc_method_handler(export, decode, encode)
        server.add_registered_method_handlers(OTLP_METRICS, {"Export": handler})

    async def export(self, request: ExportMetricsServiceRequest, context: Context) -> ExportMetricsServiceResponse:
        """Store what is well formed, and say how much was not."""
        origin, forwarding = Origin.of(context.invocation_metadata() or ()), self._forwarding
        if forwarding is not None:
            await forwarding.check(origin, context)
        has_deltas = _has_deltas(request)
        async with (
            answering(context, self._store.rejected),
            self._one_at_a_time if has_deltas else contextlib.nullcontext(),
        ):
            try:
                given = (request, self._totals, self._store.options)
                large = request.ByteSize() > LARGE_BYTES
                converted = await asyncio.to_thread(convert, *given) if large else convert(*given)
                stored = await self._store.append(
                    converted.samples,
                    source=converted.source,
                    producer=origin.producer,
                    seq=origin.seq,
                    tapped=False,
                )
                if has_deltas:
                    self._totals.commit()
            finally:
                if has_deltas:
                    self._totals.drop()
            if forwarding is not None and forwarding.wants(Signal.METRICS) and not stored.duplicate:
                forwarding.otlp(Signal.METRICS, request.SerializeToString(), len(converted.samples), origin.via)
            if len(self._totals.known) > _MANY_TOTALS:
                self._totals.forget_before(self._store.now_ms() * 1_000_000 - _FORGET_NS)
            rejected = converted.rejected + sum(stored.rejected.values())
            self._store.rejected["malformed"] += converted.rejected
            reason = "; ".join(filter(None, (converted.reason, stored.reason)))
            if not rejected:
                return ExportMetricsServiceResponse()
            return ExportMetricsServiceResponse(
                partial_success=ExportMetricsPartialSuccess(rejected_data_points=rejected, error_message=reason[:1000])
            )
        raise AssertionError


def _has_deltas(request: ExportMetricsServiceRequest) -> bool:
    return any(
        getattr(getattr(metric, metric.WhichOneof("data") or "gauge"), "aggregation_temporality", 0)
        == AGGREGATION_TEMPORALITY_DELTA
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
