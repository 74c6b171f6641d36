"""Calls that the edge answers itself, taken through the same pipeline as all others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeAlias

import grpc

from mesh.resilience import outcome
from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.call.reason import Reason, Reject
from proxy.engines.aio.forward import Drain, Peers, admit, answer, begin, gave_up
from proxy.engines.aio.metadata import to_grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]

_END = object()


class LocalCalls:
    """Wraps the handlers of the edge's own services."""

    def __init__(self, dispatcher: Dispatcher, drain: Drain, peers: Peers) -> None:
        self._dispatcher = dispatcher
        self._drain = drain
        self._peers = peers
        self._ended = asyncio.Event()

    def end_streams(self) -> None:
        """End the streams under way, which may go on for ever as health watchers do: a drain must not wait for them."""
        self._ended.set()

    def wrap(self, listener: str, method: str, handler: Handler) -> Handler:
        """Return a handler that does what `handler` does, as one call of the pipeline.

        It takes streams of bytes whatever `handler` takes: grpc.aio itself never answers a unary call that ends
        without a message, and logs a stack for one that it cannot decode.
        """
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        encode = handler.response_serializer or bytes

        async def serve(received: Any, context: Context) -> AsyncIterator[bytes]:
            async with self._call(listener, method, context) as call:
                if call is None:
                    return
                requests = self._decoded(call, received, handler.request_deserializer or bytes)
                request = requests if handler.request_streaming else await _only(requests)
                if handler.response_streaming:
                    async with contextlib.aclosing(self._until_drained(behaviour(request, context))) as responses:
                        async for response in responses:
                            yield _counted(call, encode(response))
                else:
                    yield _counted(call, encode(await behaviour(request, context)))

        return grpc.stream_stream_rpc_method_handler(serve)

    async def _decoded(self, call: Call, received: Any, decode: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        limits = self._dispatcher.limits
        async for message in received:
            if len(message) > limits.max_message_bytes:
                raise limits.message_too_large(len(message), "client")
            call.bytes_in += len(message)
            call.messages_in += 1
            try:
                request = decode(message)
            except Exception as error:
                raise Reject(Reason.MALFORMED_REQUEST, f"the request cannot be decoded: {error}") from error
            yield request

    async def _until_drained(self, responses: Any) -> AsyncGenerator[Any]:
        """Pass responses on until there are no more; raises Reject when the edge drains first.

        The call's own task cannot just be cancelled: grpc.aio would then never answer it.
        """
        drained = asyncio.ensure_future(self._ended.wait())
        response: asyncio.Future[Any] = drained
        try:
            while True:
                response = asyncio.ensure_future(anext(responses, _END))
                await asyncio.wait((response, drained), return_when=asyncio.FIRST_COMPLETED)
                if not response.done():
                    raise Reject(Reason.DRAINING, "the edge is about to end: call another one")
                if response.result() is _END:
                    return
                yield response.result()
        finally:
            response.cancel()
            drained.cancel()
            await asyncio.gather(response, drained, return_exceptions=True)
            await responses.aclose()

    @contextlib.asynccontextmanager
    async def _call(self, listener: str, method: str, context: Context) -> AsyncIterator[Call | None]:
        """Take a call through the pipeline; yields None when it was refused and answered."""
        call = begin(self._dispatcher, listener, method, context)
        call.peer_identity = self._peers.identity(listener, context)
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
        except Reject as rejection:
            call.reject(rejection)
            await answer(call, context, headers_sent=True)
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


async def _only(requests: AsyncIterator[Any]) -> Any:
    """Return the one message of a unary request."""
    async for request in requests:
        return request
    raise Reject(Reason.MALFORMED_REQUEST, "the request ended without a message")


def _counted(call: Call, message: bytes) -> bytes:
    call.bytes_out += len(message)
    call.messages_out += 1
    return message


def _code(context: Context) -> int:
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return int(code.value[0])
    return int(code or 0)
