"""The log sink as gRPC serves it, with OpenTelemetry's logs service beside it: what comes in, and what went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from mesh.api.logsink.v1 import (
    FieldsRequest,
    HistogramRequest,
    PushRequest,
    PushResponse,
    SearchRequest,
    TailRequest,
)
from services.forwarding.origin import Origin
from services.logsink.domain import LogSink
from services.names import LOG_SINK, MAX_TELEMETRY_BYTES, OTLP_LOGS
from services.sinks.pushing import Pushes, PushReader
from services.sinks.serving import Context, answering, decoded, exporting, serialized, unary, undecodable


class GrpcLogSink:
    """`mesh.logsink.v1.LogSink` and OpenTelemetry's `LogsService` over a `LogSink`."""

    def __init__(self, sink: LogSink) -> None:
        self._sink = sink
        self._pushes = PushReader(PushRequest, sink.counters)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve `mesh.logsink.v1.LogSink`."""
        methods: dict[str, Any] = {
            "Push": grpc.stream_stream_rpc_method_handler(self.push, None, PushResponse.SerializeToString),
            "Search": unary(self.search),
            "Tail": grpc.unary_stream_rpc_method_handler(self.tail, None, serialized),
            "Histogram": unary(self.histogram),
            "Fields": unary(self.fields),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(LOG_SINK, methods),))

    def add_otlp_to(self, server: grpc.aio.Server) -> None:
        """Serve OpenTelemetry's logs service."""
        methods: dict[str, Any] = {"Export": exporting(self.export, self._sink.counters, MAX_TELEMETRY_BYTES)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(OTLP_LOGS, methods),))

    async def push(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[PushResponse]:
        """Answer each request in order, with some of them on their way to the disk at a time."""
        async with answering(context, self._sink.counters):
            given = (self._pushes.read(data) async for data in requests)
            replies = Pushes(self._sink, given, PushResponse).replies()
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    yield reply

    async def search(self, data: bytes, context: Context) -> Message:
        request = decoded(SearchRequest, data, self._sink.counters)
        return await self._sink.search(request.filter, request.limit, request.cursor, oldest_first=request.oldest_first)

    async def tail(self, data: bytes, context: Context) -> AsyncIterator[Message]:
        async with answering(context):
            request = decoded(TailRequest, data, self._sink.counters)
            replies = self._sink.tail(request.filter, request.cursor, request.backlog)
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    yield reply
                    del reply  # it may be large, and the next one long in coming

    async def histogram(self, data: bytes, context: Context) -> Message:
        request = decoded(HistogramRequest, data, self._sink.counters)
        return await self._sink.histogram(request.filter, request.step_ns)

    async def fields(self, data: bytes, context: Context) -> Message:
        return await self._sink.fields(decoded(FieldsRequest, data, self._sink.counters).filter)

    async def export(self, data: bytes, context: Context) -> Message:
        origin = Origin.of(context.invocation_metadata() or ())
        if self._sink.forwarding is not None:
            await self._sink.forwarding.check(origin, context)
        try:
            cut = await self._sink.export(data, origin)
        except DecodeError as error:
            raise undecodable(ExportLogsServiceRequest, error, self._sink.counters) from error
        said = f"{cut} bodies or attributes were longer than 1 MiB and are stored cut" if cut else ""
        return ExportLogsServiceResponse(partial_success=ExportLogsPartialSuccess(error_message=said) if cut else None)
