"""Refusals as gRPC statuses."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from mesh.errors import MeshError, UsageError
from services.metrics.errors import BusyError, InvalidError, NotFoundError
from services.metrics.promql.errors import EvaluationError, LimitError, ParseError, QueryTimeoutError
from services.storage.columns import base as columns
from services.storage.kv.base import KvError

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_CODES: dict[type[MeshError], int] = {
    ParseError: code_pb2.INVALID_ARGUMENT,
    InvalidError: code_pb2.INVALID_ARGUMENT,
    UsageError: code_pb2.INVALID_ARGUMENT,
    columns.BatchError: code_pb2.INVALID_ARGUMENT,
    EvaluationError: code_pb2.FAILED_PRECONDITION,
    columns.SequenceError: code_pb2.FAILED_PRECONDITION,
    LimitError: code_pb2.RESOURCE_EXHAUSTED,
    QueryTimeoutError: code_pb2.DEADLINE_EXCEEDED,
    NotFoundError: code_pb2.NOT_FOUND,
}
_MAX_MESSAGE = 1000


@contextlib.asynccontextmanager
async def answering(context: Context, counts: Counter[str] | None = None) -> AsyncIterator[None]:
    """Turn what the domain raises into the status of the call; `counts` has what was rejected and pushed back."""
    try:
        yield
    except MeshError as error:
        if not isinstance(error, (*_CODES, BusyError, columns.ColumnsError, KvError)):
            raise
        if counts is not None:
            counts["pushed_back" if isinstance(error, columns.StorageError) else "rejected"] += 1
        await context.abort_with_status(rpc_status.to_status(status(error)))


def status(error: MeshError) -> status_pb2.Status:
    """Return the status that says what `error` says; with when to try again, where that helps."""
    message = str(error)[:_MAX_MESSAGE]
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return status_pb2.Status(code=code, message=message)
    made = status_pb2.Status(code=code_pb2.UNAVAILABLE, message=message)
    seconds = error.retry_after if isinstance(error, columns.FullError) else 1.0
    detail = any_pb2.Any()
    delay = duration_pb2.Duration(nanos=round(seconds % 1 * 1e9), seconds=int(seconds))
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    made.details.append(detail)
    return made
