"""Refusals of the registry as gRPC statuses: a code, a sentence, and details for programs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from mesh.api.registry.v1 import LEASE_STATE_REPLACED
from mesh.errors import MeshError
from services.registry.errors import LeaseLostError, TooSlowError, UnknownInstanceError
from services.registry.validation import InvalidError
from services.storage.kv.base import RequestError, StorageError

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# What `google.rpc.ErrorInfo` says that its reasons are reasons of.
DOMAIN = "registry.mesh"
# All of it goes into trailers, the message twice, and clients may take no more than 8 KiB of these.
_MAX_MESSAGE = 600
# Seconds after which trying again may help: a fleet must not come back at once.
_RETRY_SECONDS = 1


def status(error: MeshError) -> status_pb2.Status:
    """Return the status that says what `error` says."""
    match error:
        case InvalidError():
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=error.field, description=str(error).removeprefix(f"{error.field}: ")[:_MAX_MESSAGE]
            )
            details: Message = error_details_pb2.BadRequest(field_violations=[violation])
            return _status(code_pb2.INVALID_ARGUMENT, error, details)
        case RequestError():
            return _status(code_pb2.INVALID_ARGUMENT, error, _info("REQUEST_REFUSED"))
        case LeaseLostError():
            replaced = error.state == LEASE_STATE_REPLACED
            return _status(code_pb2.NOT_FOUND, error, _info("LEASE_REPLACED" if replaced else "LEASE_GONE"))
        case UnknownInstanceError():
            info = error_details_pb2.ResourceInfo(
                resource_type="mesh.registry.v1.Instance", resource_name=error.name, description=str(error)
            )
            return _status(code_pb2.NOT_FOUND, error, info, _info("NO_SUCH_INSTANCE"))
        case TooSlowError():
            return _status(code_pb2.RESOURCE_EXHAUSTED, error, _info("WATCHER_TOO_SLOW"), _retry())
        case _:
            # Registering or updating twice does no harm, so an unknown outcome is like none.
            return _status(code_pb2.UNAVAILABLE, error, _info("STORAGE_UNAVAILABLE"), _retry())


@contextlib.asynccontextmanager
async def answering(context: Context) -> AsyncIterator[None]:
    """Turn what the domain raises into the status of the call."""
    try:
        yield
    except (InvalidError, RequestError, LeaseLostError, UnknownInstanceError, TooSlowError, StorageError) as error:
        await context.abort_with_status(rpc_status.to_status(status(error)))


def _status(code: int, error: MeshError, *details: Message) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code, message=str(error)[:_MAX_MESSAGE], details=packed)


def _info(reason: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)


def _retry() -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=_RETRY_SECONDS))
