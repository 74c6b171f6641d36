"""The trace sink as gRPC serves it, with OpenTelemetry's trace service beside it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from mesh.api.tracesink.v1 import (
    FindTracesRequest,
    GetCorrelationRequest,
    GetTraceRequest,
    LatencyRequest,
    PushRequest,
    PushResponse,
    TopologyRequest,
)
from services.forwarding.origin import Origin
from services.host import Hosted
from services.names import JAEGER_QUERY, MAX_TELEMETRY_BYTES, OTLP_TRACES, TRACE_SINK
from services.sinks.pushing import Pushes, PushReader
from services.sinks.serving import Context, answering, decoded, exporting, unary, undecodable
from services.tracesink.domain import Exported, TraceSink
from services.tracesink.jaeger.servicer import JaegerQuery


def hosted(sink: TraceSink) -> list[Hosted]:
    """Return all that is served of a trace sink."""
    service = GrpcTraceSink(sink)
    return [
        Hosted(TRACE_SINK, service.add_to),
        Hosted(OTLP_TRACES, service.add_otlp_to),
        Hosted(JAEGER_QUERY, JaegerQuery(sink).add_to),
    ]


class GrpcTraceSink:
    """`mesh.tracesink.v1.TraceSink` and OpenTelemetry's `TraceService` over a `TraceSink`."""

    def __init__(self, sink: TraceSink) -> None:
        self._sink = sink
        self._pushes = PushReader(PushRequest, sink.counters)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve `mesh.tracesink.v1.TraceSink`."""
        methods: dict[str, Any] = {
            "Push": grpc.stream_stream_rpc_method_handler(self.push, None, PushResponse.SerializeToString),
            "GetTrace": unary(self.get_trace),
            "FindTraces": unary(self.find_traces),
            "GetCorrelation": unary(self.get_correlation),
            "Topology": unary(self.topology),
            "Latency": unary(self.latency),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(TRACE_SINK, methods),))

    def add_otlp_to(self, server: grpc.aio.Server) -> None:
        """Serve OpenTelemetry's trace service."""
        methods: dict[str, Any] = {"Export": exporting(self.export, self._sink.counters, MAX_TELEMETRY_BYTES)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(OTLP_TRACES, methods),))

    async def push(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[PushResponse]:
        """Answer each request in order, with some of them on their way to the disk at a time."""
        async with answering(context, self._sink.counters):
            given = (self._pushes.read(data) async for data in requests)
            replies = Pushes(self._sink, given, PushResponse).replies()
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    yield reply

    async def get_trace(self, data: bytes, context: Context) -> Message:
        return await self._sink.trace(decoded(GetTraceRequest, data, self._sink.counters).trace_id)

    async def find_traces(self, data: bytes, context: Context) -> Message:
        request = decoded(FindTracesRequest, data, self._sink.counters)
        return await self._sink.find(request.filter, request.limit, request.cursor)

    async def get_correlation(self, data: bytes, context: Context) -> Message:
        request = decoded(GetCorrelationRequest, data, self._sink.counters)
        return await self._sink.correlation(request.correlation_id, request.limit)

    async def topology(self, data: bytes, context: Context) -> Message:
        return await self._sink.topology(decoded(TopologyRequest, data, self._sink.counters))

    async def latency(self, data: bytes, context: Context) -> Message:
        return await self._sink.latency(decoded(LatencyRequest, data, self._sink.counters))

    async def export(self, data: bytes, context: Context) -> Message:
        origin = Origin.of(context.invocation_metadata() or ())
        if self._sink.forwarding is not None:
            await self._sink.forwarding.check(origin, context)
        try:
            done = await self._sink.export(data, origin)
        except DecodeError as error:
            raise undecodable(ExportTraceServiceRequest, error, self._sink.counters) from error
        said = _said(done)
        partial = ExportTracePartialSuccess(rejected_spans=done.rejected, error_message=said) if said else None
        return ExportTraceServiceResponse(partial_success=partial)


def _said(done: Exported) -> str:
    """Return what was not stored as it came; empty when all was."""
    parts = []
    if done.rejected:
        parts.append(f"{done.rejected} spans have no trace id of 16 bytes, span id of 8 bytes or parent of 8 or none")
    if done.cut:
        parts.append(f"{done.cut} names, attributes, events or links were too long and are stored cut")
    return "; ".join(parts)
