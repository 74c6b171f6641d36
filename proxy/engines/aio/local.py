"""Calls that the edge answers itself, taken through the same pipeline as all others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import grpc

from mesh.resilience import outcome
from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.call.reason import Reason, Reject
from proxy.engines.aio.forward import Drain, admit, answer, begin, gave_up
from proxy.engines.aio.metadata import to_grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]


class LocalCalls:
    """Wraps the handlers of the edge's own services."""

    def __init__(self, dispatcher: Dispatcher, drain: Drain) -> None:
        self._dispatcher = dispatcher
        self._drain = drain

    def wrap(self, listener: str, method: str, handler: Handler) -> Handler:
        """Return a handler that does what `handler` does, as one call of the pipeline."""
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def unary(request: Any, context: Context) -> Any:
            async with self._call(listener, method, context) as call:
                return await behaviour(request, context) if call is not None else None

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._call(listener, method, context) as call:
                if call is not None:
                    async with contextlib.aclosing(behaviour(request, context)) as responses:
                        async for response in responses:
                            yield response

        make: Callable[..., Handler]
        if handler.request_streaming:
            make = grpc.stream_stream_rpc_method_handler if handler.response_streaming else _stream_unary
        else:
            make = grpc.unary_stream_rpc_method_handler if handler.response_streaming else _unary_unary
        return make(
            stream if handler.response_streaming else unary,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    @contextlib.asynccontextmanager
    async def _call(self, listener: str, method: str, context: Context) -> AsyncIterator[Call | None]:
        """Take a call through the pipeline; yields None when it was refused and answered."""
        call = begin(self._dispatcher, listener, method, context)
        try:
            try:
                await admit(self._dispatcher, call)
            except Reject as rejection:
                call.reject(rejection)
                await answer(call, context)
                yield None
                return
            await context.send_initial_metadata(to_grpc(call.reply_metadata))
            call.response_at = self._dispatcher.now()
            yield call
            call.finish(_code(context), context.details() or "")
        except asyncio.CancelledError:
            gave_up(call, self._dispatcher.now(), self._drain)
            raise
        except GeneratorExit:
            gave_up(call, self._dispatcher.now(), self._drain)
            raise
        except grpc.aio.AbortError:
            call.finish(_code(context), context.details() or "")
            raise
        except Exception:
            call.finish(outcome.INTERNAL, "the edge failed", Reason.INTERNAL)
            raise
        finally:
            self._dispatcher.end(call)


_unary_unary = grpc.unary_unary_rpc_method_handler
_stream_unary = grpc.stream_unary_rpc_method_handler


def _code(context: Context) -> int:
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return int(code.value[0])
    return int(code or 0)
