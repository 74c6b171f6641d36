"""The registry as gRPC serves it: checks what comes in; `status` says what went wrong in gRPC's terms."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import grpc

from mesh.api.registry.v1 import (
    AwaitAcknowledgedRequest,
    AwaitAcknowledgedResponse,
    DeregisterRequest,
    DeregisterResponse,
    DrainRequest,
    DrainResponse,
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
    add_RegistryServicer_to_server,
)
from services.registry import validation
from services.registry.domain import Registry
from services.registry.status import Context, answering
from services.registry.streams import Streams
from services.registry.validation import InvalidError

SERVICE = "mesh.registry.v1.Registry"

# What an UpdateRequest may set, and its check.
_OPTIONAL: dict[Any, Callable[[Any, str], Any]] = {
    "version": validation.label,
    "zone": validation.label,
    "weight": validation.weight,
    "endpoints": validation.endpoints,
    "grpc_services": validation.grpc_services,
    "metadata": validation.metadata,
    "health_reason": validation.reason,
    "warm_up_seconds": validation.warm_up,
}


class GrpcRegistry(RegistryServicer):
    """`mesh.registry.v1.Registry` over a `Registry`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._streams = Streams(registry.watching)

    async def Register(self, request: RegisterRequest, context: Context) -> RegisterResponse:
        async with answering(context):
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
        async with answering(context):
            async for request in request_iterator:
                health = validation.health(request.health, "health") or None
                reason = validation.reason(request.health_reason, "health_reason")
                state, ttl = await self._registry.keepalive(request.lease_id, health, reason)
                yield KeepAliveResponse(
                    header=self._registry.header,
                    lease_id=request.lease_id,
                    state=state,
                    ttl_seconds=ttl,
                    draining=self._registry.is_drained(request.lease_id),
                )

    async def Update(self, request: UpdateRequest, context: Context) -> UpdateResponse:
        async with answering(context):
            header, instance = await self._registry.update(request.lease_id, _patch(request))
        return UpdateResponse(header=header, instance=instance)

    async def Deregister(self, request: DeregisterRequest, context: Context) -> DeregisterResponse:
        async with answering(context):
            header = await self._registry.deregister(request.lease_id)
        return DeregisterResponse(header=header)

    async def List(self, request: ListRequest, context: Context) -> ListResponse:
        async with answering(context):
            service = request.service and validation.service_name(request.service, "service")
            page = self._registry.list(service, validation.page_size(request.limit), request.page_token)
        return page  # noqa: RET504 - a return inside would look to mypy as if it might not happen

    async def Watch(self, request: WatchRequest, context: Context) -> None:  # type: ignore[override]
        """Write bytes: see `add_registry`."""
        await self._streams.watch(request, context)

    async def Follow(self, request_iterator: object, context: Context) -> None:  # type: ignore[override]
        """Write bytes: see `add_registry`."""
        await self._streams.follow(request_iterator, context)

    async def Drain(self, request: DrainRequest, context: Context) -> AsyncIterator[DrainResponse]:
        async with answering(context):
            drains, reason = self._registry.drains, validation.reason(request.reason, "reason")
            timeout = validation.DEFAULT_DRAIN
            if request.HasField("timeout_seconds"):
                timeout = validation.drain_timeout(request.timeout_seconds)
            if request.WhichOneof("who") == "instance":
                name = request.instance
                service = name.service and validation.service_name(name.service, "instance.service")
                asked = (service, validation.an_instance_id(name.instance_id, "instance.instance_id"))
                if request.cancel:
                    key, revision = await drains.cancel(asked)
                    timeout = 0.0
                else:
                    key, revision = await drains.by_name(asked, reason)
            elif not request.lease_id:
                raise InvalidError("who: it is missing: give lease_id or instance")
            elif request.cancel:
                raise InvalidError("cancel: an instance that drains itself says SERVING by Update")
            else:
                key, revision = await drains.by_lease(request.lease_id, reason)
            async with contextlib.aclosing(drains.progress(key, revision, timeout)) as steps:
                async for step in steps:
                    yield step

    async def AwaitAcknowledged(self, request: AwaitAcknowledgedRequest, context: Context) -> AwaitAcknowledgedResponse:
        async with answering(context):
            service = validation.service_name(request.service, "service")
            timeout = validation.await_timeout(request.timeout_seconds)
            answer = await self._registry.drains.acknowledged(service, request.revision, timeout)
        return answer  # noqa: RET504 - as in List


def add_registry(registry: Registry, server: grpc.aio.Server) -> None:
    """Serve the registry at `server`; what its watches send is encoded already."""
    add_RegistryServicer_to_server(GrpcRegistry(registry), cast("grpc.aio.Server", _Encoded(server)))


class _Encoded:
    """Passes handlers on to a server, those of watches without their serializer."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, _: object) -> None:
        """Leave out what comes here: the same handlers come by name."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        encoded = {name: handlers[name]._replace(response_serializer=None) for name in ("Watch", "Follow")}
        known = {**handlers, **encoded}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, known),))
        self._server.add_registered_method_handlers(service, known)


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

    asks = request.HasField("check")

    def apply(instance: Instance) -> None:
        if asks:
            metadata = fields.get("metadata", instance.metadata)
            fields["check"] = validation.check(request.check, "check", metadata)
        if "health" in fields and "health_reason" not in fields:
            instance.ClearField("health_reason")
        for name in fields:
            instance.ClearField(name)
        instance.MergeFrom(Instance(**fields))

    return apply
