"""Requests that are no messages are refused with INVALID_ARGUMENT and a sentence; grpc says no more than UNKNOWN."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from services.metrics.errors import InvalidError
from services.metrics.status import Context
from services.names import MAX_TELEMETRY_BYTES


class _Broken:
    def __init__(self, reason: str) -> None:
        self.reason = reason


class Decoding:
    """Give it to the stubs' `add_X_to_server` in the place of a server: it adds the methods to that one, guarded."""

    def __init__(
        self, server: grpc.aio.Server, broken: Callable[[], None], too_large: Callable[[], None] | None = None
    ) -> None:
        """Call `broken` for each request that cannot be read, and `too_large` for each unary one that is too long.

        For that grpc takes these methods for streams of requests, though all clients send one.
        """
        self._server = server
        self._broken = broken
        self._too_large = too_large

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """Leave them out: they are the same methods once more."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        guarded = {name: self._guarded(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, guarded),))

    def _guarded(self, handler: Any) -> Any:
        def decode(data: bytes) -> Any:
            try:
                return handler.request_deserializer(data)
            except DecodeError as error:
                self._broken()
                return _Broken(f"the request cannot be read: {error} (are all strings UTF-8?)")

        if handler.request_streaming:
            behaviour: Any = _stream_stream(handler.stream_stream)
            make = grpc.stream_stream_rpc_method_handler
        elif handler.response_streaming:
            behaviour, make = _unary_stream(handler.unary_stream), grpc.unary_stream_rpc_method_handler
        elif self._too_large is not None:
            behaviour, make = _one(handler.unary_unary, self._too_large), grpc.stream_unary_rpc_method_handler
        else:
            behaviour, make = _unary_unary(handler.unary_unary), grpc.unary_unary_rpc_method_handler
        return make(behaviour, decode, handler.response_serializer)


def _unary_unary(behaviour: Any) -> Any:
    async def run(request: Any, context: Context) -> Any:
        if isinstance(request, _Broken):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, request.reason)
        return await behaviour(request, context)

    return run


def _one(behaviour: Any, too_large: Callable[[], None]) -> Any:
    single = _unary_unary(behaviour)

    async def run(requests: AsyncIterator[Any], context: Context) -> Any:
        async for request in requests:
            return await single(request, context)
        # grpc's core has answered for the same reason; this is heard where nothing was sent at all.
        too_large()
        await context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"the request has more than {MAX_TELEMETRY_BYTES >> 20} MiB, counted after decompression, or none: "
            "send less at once",
        )
        raise AssertionError

    return run


def _unary_stream(behaviour: Any) -> Any:
    async def run(request: Any, context: Context) -> AsyncIterator[Any]:
        if isinstance(request, _Broken):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, request.reason)
        async for reply in behaviour(request, context):
            yield reply

    return run


def _stream_stream(behaviour: Any) -> Any:
    async def run(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for reply in behaviour(_readable(requests), context):
            yield reply

    return run


async def _readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, _Broken):
            raise InvalidError(request.reason)
        yield request
