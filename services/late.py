"""Services that come when their server serves already. Until then their calls hear so, and when to try again.

grpc.aio takes no handlers once it has started: this is one that it takes before, and that finds the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

RETRY_SECONDS = 1

# In quotes: these are generic only in grpc's type stubs.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class LateHandlers(grpc.GenericRpcHandler):
    """Finds the handler of a call among those of now; stands in for a server before what adds handlers to one."""

    def __init__(self) -> None:
        self._handlers: dict[str, grpc.ServiceRpcHandler] = {}
        # By service: why it is not served yet.
        self._expected: dict[str, str] = {}

    def expect(self, services: Iterable[str], why: str) -> None:
        """Have all calls of `services` refused with UNAVAILABLE and the sentence `why`, until their handlers come."""
        self._expected |= dict.fromkeys(services, why)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.ServiceRpcHandler]) -> None:
        """Serve them from now on, in the place of those of the same service."""
        self._handlers |= {handler.service_name(): handler for handler in handlers}

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Leave them out: they are the same methods once more."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        service = handler_call_details.method[1:].rpartition("/")[0]
        handler = self._handlers.get(service)
        if handler is not None:
            return handler.service(handler_call_details)
        why = self._expected.get(service)
        return None if why is None else _refusing(why)


def _refusing(why: str) -> Handler:
    """Return a handler that refuses calls of any kind: on the wire a call is a stream of bytes both ways."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=RETRY_SECONDS)))
    status = rpc_status.to_status(status_pb2.Status(code=code_pb2.UNAVAILABLE, message=why, details=[detail]))

    async def refuse(_: AsyncIterator[bytes], context: Context) -> None:
        await context.abort_with_status(status)

    behaviour: Any = refuse
    return grpc.stream_stream_rpc_method_handler(behaviour)
