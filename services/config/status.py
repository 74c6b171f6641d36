"""Refusals as gRPC statuses: a code, a sentence, and details for programs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.config import errors
from services.config.errors import ConfigError
from services.registry.validation import InvalidError as InvalidTokenError
from services.storage.kv.base import KvError, RequestError, StorageError

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# All of it goes into trailers, the message twice, and clients may take no more than 8 KiB of these. In bytes.
_MAX_MESSAGE = 600
_MAX_TEXT = 160
_MAX_VIOLATIONS = 2000


def status(error: ConfigError) -> status_pb2.Status:
    """Return the status that says what `error` says."""
    match error:
        case errors.InvalidError():
            return _status(code_pb2.INVALID_ARGUMENT, error, _bad_request(error))
        case errors.UnknownError():
            info = error_details_pb2.ResourceInfo(
                resource_type=error.kind, resource_name=error.name, description=_cut(str(error), _MAX_TEXT)
            )
            return _status(code_pb2.NOT_FOUND, error, info)
        case errors.PreconditionError():
            return _status(code_pb2.FAILED_PRECONDITION, error, _precondition(error, error.kind))
        case errors.ConflictError():
            return _status(code_pb2.ABORTED, error, _precondition(error, "MOD_REVISION"))
        case errors.QuotaError():
            violation = error_details_pb2.QuotaFailure.Violation(description=_cut(str(error), _MAX_TEXT))
            return _status(code_pb2.RESOURCE_EXHAUSTED, error, error_details_pb2.QuotaFailure(violations=[violation]))
        case errors.GoneError():
            return _status(code_pb2.OUT_OF_RANGE, error)
        case _:
            return _status(code_pb2.PERMISSION_DENIED, error)


@contextlib.asynccontextmanager
async def answering(context: Context) -> AsyncIterator[None]:
    """Turn what the domain raises into the status of the call."""
    try:
        yield
    except ConfigError as error:
        await context.abort_with_status(rpc_status.to_status(status(error)))
    except (RequestError, InvalidTokenError) as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    except (StorageError, KvError) as error:
        await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))


def _status(code: int, error: ConfigError, *details: Message) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code, message=_cut(str(error), _MAX_MESSAGE), details=packed)


def _bad_request(error: ConfigError) -> error_details_pb2.BadRequest:
    make = error_details_pb2.BadRequest.FieldViolation
    return error_details_pb2.BadRequest(
        field_violations=[make(field=where, description=what) for where, what in _violations(error)]
    )


def _precondition(error: ConfigError, kind: str) -> error_details_pb2.PreconditionFailure:
    make = error_details_pb2.PreconditionFailure.Violation
    return error_details_pb2.PreconditionFailure(
        violations=[make(type=kind, subject=where, description=what) for where, what in _violations(error)]
    )


def _violations(error: ConfigError) -> Iterator[tuple[str, str]]:
    """Yield the first violations, as many as there is room for."""
    room = _MAX_VIOLATIONS
    for one in error.violations:
        where, what = _cut(one.where, _MAX_TEXT), _cut(one.what, _MAX_TEXT)
        room -= len(where.encode()) + len(what.encode())
        if room < 0:
            return
        yield where, what


def _cut(text: str, most: int) -> str:
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= most else raw[: most - 3].decode("utf-8", "ignore") + "..."
