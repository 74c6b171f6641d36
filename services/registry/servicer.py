"""The registry as gRPC serves it: checks what comes in, and says what went wrong in gRPC's terms."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import grpc

from mesh.api.registry.v1 import (
    DeregisterRequest,
    DeregisterResponse,
    Instance,
    KeepAliveRequest,
    KeepAliveResponse,
    ListRequest,
    ListResponse,
    RegisterRequest,
    RegisterResponse,
    RegistryServicer,
    UpdateRequest,
    UpdateResponse,
    WatchRequest,
    WatchResponse,
)
from services.registry import validation
from services.registry.domain import LeaseLostError, Registry
from services.registry.validation import InvalidError
from services.storage.kv.base import OutcomeUnknownError, RequestError, StorageError

SERVICE = "mesh.registry.v1.Registry"

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidError: grpc.StatusCode.INVALID_ARGUMENT,
    RequestError: grpc.StatusCode.INVALID_ARGUMENT,
    LeaseLostError: grpc.StatusCode.NOT_FOUND,
    StorageError: grpc.StatusCode.UNAVAILABLE,
    # Registering or updating twice does no harm, so clients may take this one like the other.
    OutcomeUnknownError: grpc.StatusCode.UNAVAILABLE,
}

# What an UpdateRequest may set, and its check.
_OPTIONAL: dict[Any, Callable[[Any, str], Any]] = {
    "version": validation.label,
    "zone": validation.label,
    "weight": validation.weight,
    "endpoints": validation.endpoints,
    "grpc_services": validation.grpc_services,
    "metadata": validation.metadata,
}


class GrpcRegistry(RegistryServicer):
    """`mesh.registry.v1.Registry` over a `Registry`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def Register(self, request: RegisterRequest, context: Context) -> RegisterResponse:
        async with _answering(context):
            if not request.HasField("instance"):
                raise InvalidError("instance: it is missing")
            ttl = validation.ttl(request.ttl_seconds)
            instance = validation.instance(request.instance, make_id=secrets.token_hex(8))
            done = await self._registry.register(instance, ttl)
        return RegisterResponse(
            header=done.header, lease_id=done.lease_id, instance_id=instance.instance_id, ttl_seconds=done.ttl
        )

    async def KeepAlive(
        self, request_iterator: AsyncIterator[KeepAliveRequest], context: Context
    ) -> AsyncIterator[KeepAliveResponse]:
        async with _answering(context):
            async for request in request_iterator:
                health = validation.health(request.health, "health") or None
                state, ttl = await self._registry.keepalive(request.lease_id, health)
                yield KeepAliveResponse(
                    header=self._registry.header, lease_id=request.lease_id, state=state, ttl_seconds=ttl
                )

    async def Update(self, request: UpdateRequest, context: Context) -> UpdateResponse:
        async with _answering(context):
            header, instance = await self._registry.update(request.lease_id, _patch(request))
        return UpdateResponse(header=header, instance=instance)

    async def Deregister(self, request: DeregisterRequest, context: Context) -> DeregisterResponse:
        async with _answering(context):
            header = await self._registry.deregister(request.lease_id)
        return DeregisterResponse(header=header)

    async def List(self, request: ListRequest, context: Context) -> ListResponse:
        async with _answering(context):
            service = request.service and validation.service_name(request.service, "service")
            page = self._registry.list(service, validation.page_size(request.limit), request.page_token)
        return page  # noqa: RET504 - a return inside would look to mypy as if it might not happen

    async def Watch(self, request: WatchRequest, context: Context) -> AsyncIterator[WatchResponse]:
        async with _answering(context):
            service = request.service and validation.service_name(request.service, "service")
            updates = self._registry.watch(service, request.start_revision, request.cluster_id)
            async with contextlib.aclosing(updates):
                async for update in updates:
                    yield update
                    del update  # a snapshot is large, and the next one may be long in coming


def _patch(request: UpdateRequest) -> Callable[[Instance], None]:
    """Check what an UpdateRequest changes, and return that change."""
    fields: dict[Any, Any] = {}
    for name, check in _OPTIONAL.items():
        if request.HasField(name):
            given = getattr(request, name)
            # A list or map comes in a message of its own, so that an empty one can be told from none.
            fields[name] = check(getattr(given, name, given), name)
    if exposure := validation.exposure(request.exposure, "exposure"):
        fields["exposure"] = exposure
    if health := validation.health(request.health, "health"):
        fields["health"] = health

    def apply(instance: Instance) -> None:
        for name in fields:
            instance.ClearField(name)
        instance.MergeFrom(Instance(**fields))

    return apply


@contextlib.asynccontextmanager
async def _answering(context: Context) -> AsyncIterator[None]:
    """Turn what the domain raises into the status of the call."""
    try:
        yield
    except (InvalidError, RequestError, LeaseLostError, StorageError) as error:
        await context.abort(_CODES[type(error)], str(error))
