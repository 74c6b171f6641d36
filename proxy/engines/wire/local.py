"""What the edge answers itself: a private grpc.aio server on a unix socket, called like an upstream."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from proxy.call.limits import Limits
from proxy.call.reason import TRAILER, Reason
from proxy.engines.engine import Listener
from proxy.engines.wire.pool import UNIX


class LocalServer:
    """The private server of one listener. Its folder is nobody else's."""

    def __init__(self, listener: Listener, limits: Limits) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mesh-edge-")
        self.address = UNIX + str(Path(self._folder.name) / "local.sock")
        self._server = grpc.aio.server(
            interceptors=(_UnknownMethods(),),
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


class _UnknownMethods(grpc.aio.ServerInterceptor):
    """Answers for methods that the edge's services do not have, in the words of the mesh."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        return await continuation(handler_call_details) or _UNKNOWN


async def _refuse(_request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    reason = Reason.NO_ROUTE
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method", ((TRAILER.decode(), reason.text),))


_UNKNOWN: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(_refuse)
