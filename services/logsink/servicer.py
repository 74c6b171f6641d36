"""The log sink as gRPC serves it, with OpenTelemetry's logs service beside it: what comes in, and what went wrong.

Both take their requests as bytes and decode them here: a message that is none shall be answered as such, and counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
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
from services.logsink.domain import LogSink
from services.logsink.pushing import Pushes
from services.logsink.searching import InvalidError
from services.names import LOG_SINK, OTLP_LOGS
from services.storage.columns.base import (
    BatchError,
    ColumnsError,
    FullError,
    QueryError,
    SequenceError,
    StorageError,
)

RETRY_SECONDS = 1.0

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_M = TypeVar("_M", bound=Message)


class GrpcLogSink:
    """`mesh.logsink.v1.LogSink` and OpenTelemetry's `LogsService` over a `LogSink`."""

    def __init__(self, sink: LogSink) -> None:
        self._sink = sink

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve `mesh.logsink.v1.LogSink`."""
        methods: dict[str, Any] = {
            "Push": grpc.stream_stream_rpc_method_handler(self.push, None, PushResponse.SerializeToString),
            "Search": _unary(self.search),
            "Tail": grpc.unary_stream_rpc_method_handler(self.tail, None, _serialized),
            "Histogram": _unary(self.histogram),
            "Fields": _unary(self.fields),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(LOG_SINK, methods),))

    def add_otlp_to(self, server: grpc.aio.Server) -> None:
        """Serve OpenTelemetry's logs service."""
        methods: dict[str, Any] = {"Export": _unary(self.export)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(OTLP_LOGS, methods),))

    async def push(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[PushResponse]:
        """Answer each request in order, with some of them on their way to the disk at a time."""
        async with _answering(context):
            replies = Pushes(self._sink, (self._decoded(PushRequest, data) async for data in requests)).replies()
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    yield reply

    async def search(self, data: bytes, context: Context) -> Message:
        request = self._decoded(SearchRequest, data)
        return await self._sink.search(request.filter, request.limit, request.cursor, oldest_first=request.oldest_first)

    async def tail(self, data: bytes, context: Context) -> AsyncIterator[Message]:
        async with _answering(context):
            request = self._decoded(TailRequest, data)
            replies = self._sink.tail(request.filter, request.cursor, request.backlog)
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    yield reply
                    del reply  # it may be large, and the next one long in coming

    async def histogram(self, data: bytes, context: Context) -> Message:
        request = self._decoded(HistogramRequest, data)
        return await self._sink.histogram(request.filter, request.step_ns)

    async def fields(self, data: bytes, context: Context) -> Message:
        return await self._sink.fields(self._decoded(FieldsRequest, data).filter)

    async def export(self, data: bytes, context: Context) -> Message:
        try:
            cut = await self._sink.export(data)
        except DecodeError as error:
            raise self._undecodable(ExportLogsServiceRequest, error) from error
        said = f"{cut} bodies or attributes were longer than 1 MiB and are stored cut" if cut else ""
        return ExportLogsServiceResponse(partial_success=ExportLogsPartialSuccess(error_message=said) if cut else None)

    def _decoded(self, kind: type[_M], data: bytes) -> _M:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            raise self._undecodable(kind, error) from error

    def _undecodable(self, kind: type[Message], error: DecodeError) -> InvalidError:
        self._sink.counters.undecodable += 1
        return InvalidError(f"the request is no {kind.DESCRIPTOR.full_name}: {error} (are all strings UTF-8?)")


def _unary(behaviour: Callable[[bytes, Context], Any]) -> Any:
    async def run(data: bytes, context: Context) -> Any:
        async with _answering(context):
            return await behaviour(data, context)

    return grpc.unary_unary_rpc_method_handler(run, None, _serialized)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


@contextlib.asynccontextmanager
async def _answering(context: Context) -> AsyncIterator[None]:
    """Turn what the domain raises into the status of the call."""
    try:
        yield
    except (InvalidError, BatchError, QueryError) as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    except SequenceError as error:
        await context.abort(grpc.StatusCode.ABORTED, str(error))
    except TimeoutError:
        await context.abort(
            grpc.StatusCode.DEADLINE_EXCEEDED, "the query takes too long: narrow its time range or give an id"
        )
    except StorageError as error:  # FullError among them
        await _abort_to_retry(context, error)
    except ColumnsError as error:
        await context.abort(grpc.StatusCode.INTERNAL, str(error))


async def _abort_to_retry(context: Context, error: StorageError) -> None:
    """Say UNAVAILABLE and when to try again: clients of OpenTelemetry drop what is refused in another way."""
    seconds = error.retry_after if isinstance(error, FullError) else RETRY_SECONDS
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    status = rpc_status.to_status(status_pb2.Status(code=code_pb2.UNAVAILABLE, message=str(error), details=[detail]))
    context.set_trailing_metadata(status.trailing_metadata)
    await context.abort(status.code, status.details)
