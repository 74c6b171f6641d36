"""A decent upstream on grpc.aio, which sees bytes and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import grpc

from tests.conformance.h2_peer import HANG_SECONDS

EOF = grpc.aio.EOF

Context = grpc.aio.ServicerContext[bytes, bytes]
Behaviour = Callable[["UpstreamCall"], AsyncIterator[bytes]]


class UpstreamCall:
    """One call as the upstream sees it."""

    def __init__(self, method: str, requests: AsyncIterator[bytes], context: Context) -> None:
        self.method = method
        self.requests = requests
        self.context = context
        self.metadata = [(name, value) for name, value in context.invocation_metadata() or ()]
        self.time_remaining = context.time_remaining()
        self.auth: dict[str, Any] = dict(context.auth_context())
        self.received: list[bytes] = []
        self.ended = asyncio.Event()
        self.cancelled = False

    def values(self, name: str) -> list[str | bytes]:
        """Return the values of a header, in order."""
        return [value for key, value in self.metadata if key == name]

    async def read(self) -> AsyncIterator[bytes]:
        """Read the client's messages."""
        async for message in self.requests:
            self.received.append(message)
            yield message


class GrpcUpstream:
    """A grpc.aio server on a free port; answers every method by one behaviour."""

    def __init__(
        self,
        behaviour: Behaviour,
        options: tuple[tuple[str, int], ...] = (),
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.behaviour = behaviour
        self.calls: list[UpstreamCall] = []
        self.address = ""
        self._options = options
        self._credentials = credentials
        self._server: grpc.aio.Server | None = None
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[GrpcUpstream]:
        unlimited = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0), *unlimited, *self._options))
        self._server.add_generic_rpc_handlers((_AnyMethod(self._serve),))
        if self._credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", self._credentials)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()
        try:
            yield self
        finally:
            await self._server.stop(None)

    async def until_calls(self, count: int) -> list[UpstreamCall]:
        """Wait until so many calls have arrived and return them."""
        async with asyncio.timeout(HANG_SECONDS):
            while len(self.calls) < count:
                await self._news.wait()
        return self.calls

    async def _serve(self, method: str, requests: AsyncIterator[bytes], context: Context) -> AsyncGenerator[bytes]:
        call = UpstreamCall(method, requests, context)
        self.calls.append(call)
        news, self._news = self._news, asyncio.Event()
        news.set()
        try:
            async for response in self.behaviour(call):
                yield response
        except asyncio.CancelledError:
            call.cancelled = True
            raise
        finally:
            call.ended.set()


class _AnyMethod(grpc.GenericRpcHandler):
    def __init__(self, serve: Callable[[str, Any, Any], AsyncGenerator[bytes]]) -> None:
        self._serve = serve

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        method = handler_call_details.method

        async def serve(requests: Any, context: Any) -> AsyncIterator[bytes]:
            async with contextlib.aclosing(self._serve(method, requests, context)) as responses:
                async for response in responses:
                    yield response

        return grpc.stream_stream_rpc_method_handler(serve)


async def echo(call: UpstreamCall) -> AsyncIterator[bytes]:
    """Send every message back as it comes."""
    async for message in call.read():
        yield message


async def hang(call: UpstreamCall) -> AsyncIterator[bytes]:
    """Read all and never answer."""
    async for _message in call.read():
        pass
    await asyncio.Event().wait()
    yield b""
