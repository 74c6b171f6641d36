"""What the sinks raise as the status of a call, and requests that are taken as bytes.

They are decoded here: a message that is none shall be answered as such, and counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.sinks.errors import InvalidError, NotThereError
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


class Undecodable(Protocol):
    """Counts messages that were none."""

    undecodable: int


class Refusals(Undecodable, Protocol):
    """Counts requests that were not taken."""

    # Longer than a message may be.
    too_large: int
    # To be sent again later.
    pushed_back: int


def decoded(kind: type[_M], data: bytes, counters: Undecodable) -> _M:
    """Return the message; `InvalidError` when it is none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise undecodable(kind, error, counters) from error


def undecodable(kind: type[Message], error: DecodeError, counters: Undecodable) -> InvalidError:
    """Count a message that is no `kind`, and return what is said of it."""
    counters.undecodable += 1
    return InvalidError(f"the request is no {kind.DESCRIPTOR.full_name}: {error} (are all strings UTF-8?)")


def unary(behaviour: Callable[[bytes, Context], Any]) -> Any:
    """Return a handler for a method that takes bytes and returns a message."""

    async def run(data: bytes, context: Context) -> Any:
        async with answering(context):
            return await behaviour(data, context)

    return grpc.unary_unary_rpc_method_handler(run, None, serialized)


def exporting(behaviour: Callable[[bytes, Context], Any], counters: Refusals, most: int) -> Any:
    """Return a handler for an export of OTLP, which says of requests longer than `most` bytes what they are.

    For grpc it takes a stream, though all clients send one message: it hears of one that was too long to be read.
    """

    async def run(requests: AsyncIterator[bytes], context: Context) -> Any:
        async for data in requests:
            async with answering(context, counters):
                return await behaviour(data, context)
        # grpc's core has answered for the same reason; this is heard where nothing was sent at all.
        counters.too_large += 1
        await context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"the request has more than {most >> 20} MiB, counted after decompression, or none: send less at once",
        )
        raise AssertionError

    return grpc.stream_unary_rpc_method_handler(run, None, serialized)


def serialized(message: Message) -> bytes:
    """Return the message as bytes."""
    return message.SerializeToString()


@contextlib.asynccontextmanager
async def answering(context: Context, counters: Refusals | None = None) -> AsyncIterator[None]:
    """Turn what a sink raises into the status of the call, and count what is to be sent again."""
    try:
        yield
    except NotThereError as error:
        await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
    except (InvalidError, BatchError, QueryError) as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    except SequenceError as error:
        await context.abort(grpc.StatusCode.ABORTED, str(error))
    except TimeoutError:
        await context.abort(
            grpc.StatusCode.DEADLINE_EXCEEDED, "the query takes too long: narrow its time range or give an id"
        )
    except StorageError as error:  # FullError among them
        if counters is not None:
            counters.pushed_back += 1
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
