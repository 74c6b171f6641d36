"""What every service of the shop does around its methods: faults on demand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from examples.shop.api.v1 import FaultsServicer, SetFaultRequest, SetFaultResponse

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"


@dataclass(frozen=True)
class Fault:
    """What goes wrong, as `SetFaultRequest` says it."""

    method: str = ""
    latency: float = 0.0
    error_rate: float = 0.0
    error_code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE

    def describe(self) -> str:
        parts = []
        if self.latency:
            parts.append(f"waits {self.latency:g} s")
        if self.error_rate:
            parts.append(f"fails {self.error_rate:.0%} with {self.error_code.name}")
        return f"{self.method or 'every method'} {' and '.join(parts)}" if parts else "healthy"


class Faults(FaultsServicer, grpc.aio.ServerInterceptor):
    """Holds the fault of this process, sets it by RPC, and does it to every call but the one that sets it."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._fault = Fault()

    async def SetFault(self, request: SetFaultRequest, context: grpc.aio.ServicerContext[Any, Any]) -> SetFaultResponse:
        code = getattr(grpc.StatusCode, request.error_code or "UNAVAILABLE", None)
        if code in (None, grpc.StatusCode.OK) or not 0 <= request.error_rate <= 1:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "error_rate is a share from 0 to 1, error_code the name of a gRPC status code such as UNAVAILABLE",
            )
        self._fault = Fault(request.method, request.latency_ms / 1000, request.error_rate, code)
        return SetFaultResponse(service=self._service, effect=self._fault.describe())

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None or not service.startswith("shop.v1.") or service == "shop.v1.Faults":
            return handler

        async def before(context: grpc.aio.ServicerContext[Any, Any]) -> None:
            fault = self._fault
            if fault.method not in ("", method):
                return
            if fault.latency:
                await asyncio.sleep(fault.latency)
            if random.random() < fault.error_rate:  # noqa: S311 - no secret
                await context.abort(fault.error_code, f"{self._service} was told to fail (shop.v1.Faults/SetFault)")

        return _around(handler, before)


def _around(handler: Handler, before: Callable[[Any], Awaitable[None]]) -> Handler:
    """Return `handler` with `before` run first."""
    streams_in, streams_out = handler.request_streaming, handler.response_streaming
    kind = f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}"
    inner: Callable[..., Any] = getattr(handler, kind)

    async def one(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await before(context)
        return await inner(request, context)

    async def many(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        await before(context)
        async for reply in inner(request, context):
            yield reply

    make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        many if streams_out else one,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
