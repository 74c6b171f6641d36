"""What the edge answers itself: a private grpc.aio server on a unix socket, called like an upstream."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from proxy.call.limits import Limits
from proxy.call.reason import TRAILER, Reason
from proxy.engines.engine import Listener
from proxy.engines.wire.pool import UNIX

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]


class LocalServer:
    """The private server of one listener. Its folder is nobody else's."""

    def __init__(self, listener: Listener, limits: Limits) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mesh-edge-")
        self.address = UNIX + str(Path(self._folder.name) / "local.sock")
        self._server = grpc.aio.server(
            interceptors=(_Wrapped(),),
            options=(
                ("grpc.max_receive_message_length", 2 * limits.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", 4 * limits.max_header_bytes),
                ("grpc.absolute_max_metadata_size", 4 * limits.max_header_bytes),
            ),
        )
        listener.add_local(self._server)
        self._server.add_insecure_port(self.address)

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self) -> None:
        """End its calls."""
        await self._server.stop(None)
        self._folder.cleanup()


class _Wrapped(grpc.aio.ServerInterceptor):
    """Makes every method one that takes a stream of bytes.

    grpc.aio leaves a client waiting that sends no message where one is due, and logs an error for a message that
    cannot be parsed; here both are the client's error, and told.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return _UNKNOWN
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def serve(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            requests = _parsed(messages, handler, context)
            if handler.request_streaming:
                request: Any = requests
            else:
                request = await anext(requests, None)
                if request is None:
                    await _malformed(context, "the call has no message")
            if handler.response_streaming:
                async with contextlib.aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response
            else:
                yield await behaviour(request, context)

        return grpc.stream_stream_rpc_method_handler(serve, response_serializer=handler.response_serializer)


async def _parsed(messages: AsyncIterator[bytes], handler: Handler, context: Context) -> AsyncIterator[Any]:
    parse: Any = handler.request_deserializer
    async for message in messages:
        try:
            request = parse(message) if parse is not None else message
        except Exception:  # noqa: BLE001 - whatever a parser raises, the message is the client's
            await _malformed(context, "the message cannot be parsed")
        yield request


async def _malformed(context: Context, message: str) -> None:
    reason = Reason.MALFORMED_REQUEST
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message, ((TRAILER.decode(), reason.text),))


async def _refuse(_request: object, context: Context) -> None:
    reason = Reason.NO_ROUTE
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method", ((TRAILER.decode(), reason.text),))


_UNKNOWN: Handler = grpc.stream_stream_rpc_method_handler(_refuse)
