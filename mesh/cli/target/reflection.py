"""What a server says that it serves."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from grpc_reflection.v1alpha import reflection_pb2

# The two are one protocol under two names; servers speak either, newer ones both.
_PROTOCOLS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
# Served beside the application by its library: every server has its own, so none is routed to.
_INFRASTRUCTURE = ("grpc.health.", "grpc.reflection.", "grpc.channelz.")
_TIMEOUT = 10.0


async def reflected_services(channel: grpc.aio.Channel) -> list[str] | None:
    """Return the full names of the application's gRPC services, or None when the server has no reflection."""
    for protocol in _PROTOCOLS:
        # One question needs no stream; and a stream that is refused while it is written to loses why it was.
        ask = channel.unary_stream(
            f"/{protocol}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        call = ask(reflection_pb2.ServerReflectionRequest(list_services=""), timeout=_TIMEOUT)
        try:
            async for answer in call:
                return application_services(service.name for service in answer.list_services_response.service)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
    return None


def application_services(names: Iterable[str]) -> list[str]:
    """Return `names`, sorted, without those that every server has for itself."""
    return sorted(name for name in names if not name.startswith(_INFRASTRUCTURE))
