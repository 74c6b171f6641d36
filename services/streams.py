"""Open streams must not hold up the end of their server, nor be cut off without a word.

grpc.aio leaves streams alone until the grace is over and then cancels them. Watches never end by themselves, so every
stop would take the whole grace. Here each streaming call is told UNAVAILABLE at once, which clients answer by
connecting again: to whoever serves next.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

# In quotes: these are generic only in grpc's type stubs.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behaviour = Callable[[Any, Context], Awaitable[Any]]


class StreamEnder(grpc.aio.ServerInterceptor):
    """Ends the streaming calls of a server when told to."""

    def __init__(self) -> None:
        self._ending = asyncio.Event()

    def end(self) -> None:
        """End all streams that are open, and any that still come."""
        self._ending.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler: Any = await continuation(handler_call_details)
        if handler is None or not (handler.request_streaming or handler.response_streaming):
            return handler  # type: ignore[no-any-return]
        if not handler.response_streaming:
            make, behaviour = grpc.stream_unary_rpc_method_handler, handler.stream_unary
        elif handler.request_streaming:
            make, behaviour = grpc.stream_stream_rpc_method_handler, handler.stream_stream
        else:
            make, behaviour = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        wrapped: Any = self._endable(_as_coroutine(behaviour))
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    def _endable(self, behaviour: Behaviour) -> Behaviour:
        async def run(request: Any, context: Context) -> Any:
            call = asyncio.ensure_future(behaviour(request, context))
            ending = asyncio.ensure_future(self._ending.wait())
            try:
                await asyncio.wait((call, ending), return_when=asyncio.FIRST_COMPLETED)
                if call.done():
                    return await call
            finally:
                ending.cancel()
                if not call.done():
                    call.cancel()
                    await asyncio.wait((call,))
            return await context.abort(grpc.StatusCode.UNAVAILABLE, "this server is stopping: connect again")

        return run


def _as_coroutine(behaviour: Any) -> Behaviour:
    """Return a behaviour that writes its replies itself, if there may be several."""
    if not inspect.isasyncgenfunction(behaviour):
        return behaviour  # type: ignore[no-any-return]

    async def run(request: Any, context: Context) -> None:
        replies = behaviour(request, context)
        try:
            async for reply in replies:
                await context.write(reply)
                del reply  # it may be large, and the next one long in coming
        finally:
            await replies.aclose()

    return run
