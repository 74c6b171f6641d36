"""The grpc.aio server of an instance, with health and reflection."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mesh.errors import UsageError
from mesh.listening import cannot_listen, prove_free
from mesh.options import LISTEN_VARIABLE
from mesh.sdk.options import JoinOptions
from mesh.tls.credentials import server_credentials
from mesh.tls.identity import Identity

# What generated code calls `add_OrdersServicer_to_server`.
Adder: TypeAlias = Callable[[Any, Any], None]
ChannelOptions: TypeAlias = Sequence[tuple[str, Any]]

_OPTIONS: tuple[tuple[str, int], ...] = (
    # Else a second process on the port would get half of the connections instead of an error.
    ("grpc.so_reuseport", 0),
    # The core cancels calls at random once 1,000 have come that no handler has taken yet.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 1_000_000),
    # The edge and other callers ping every 20 s, jitter makes that less.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.enable_channelz", 0),
)

_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Server:
    """Takes calls between `start` and `stop`; may be started once."""

    def __init__(
        self, options: JoinOptions, interceptors: Sequence[grpc.aio.ServerInterceptor], more: ChannelOptions = ()
    ) -> None:
        """Make it; `more` are options of grpc core, and come after ours."""
        self._options = options
        self._tls = Identity("listener", options.tls) if options.tls.enabled else None
        self._server = grpc.aio.server(interceptors=interceptors, options=(*_OPTIONS, *more))
        self._health = health.aio.HealthServicer()
        # The gRPC services that were added, in order.
        self.names: list[str] = []
        # Those that the mesh is told of.
        self.announced: list[str] = []

    def add(self, adder: Adder, servicer: Any, *, announced: bool = True) -> None:
        """Serve what `servicer` implements; tell the mesh of it, unless it is not `announced`.

        Raises:
            UsageError: a method of it is not async, or another servicer has the same service.

        """
        taker = _Taker()
        adder(servicer, taker)
        for name in taker.names:
            if name in self.names:
                raise UsageError(f"{name} is served already: one servicer a service")
            self.names.append(name)
            if announced:
                self.announced.append(name)
        self._server.add_generic_rpc_handlers(tuple(taker.handlers))

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            StartError: the address cannot be had.

        """
        listen = self._options.listen
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self._options.reflection:
            reflected = (*self.names, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(reflected, self._server)
        await self.tell(serving=False)
        await prove_free(listen, f"listen or {LISTEN_VARIABLE}:")
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(listen)
            else:
                port = self._server.add_secure_port(listen, server_credentials(self._tls))
        except RuntimeError as error:
            raise cannot_listen(listen, f"listen or {LISTEN_VARIABLE}:", str(error)) from error
        await self._server.start()
        return port

    async def follow_files(self) -> None:
        """Have new certificates come into force, until cancelled."""
        if self._tls is not None:
            await self._tls.watch()

    async def tell(self, *, serving: bool) -> None:
        """Say by grpc.health.v1 whether calls are wanted."""
        for name in ("", *self.names):
            await self._health.set(name, _SERVING if serving else _NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those under way `grace` seconds to finish before they are cancelled."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)


class _Taker:
    """Stands in for a server while generated code adds a servicer to it: what is added is looked at first."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.handlers: list[Any] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Take what generated code of every age gives."""
        self.handlers += handlers
        self.names += [name for one in handlers if (name := getattr(one, "service_name", str)())]

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Take the same once more, by name: only now can it be looked at."""
        checked = {name: _checked(service, name, handler) for name, handler in handlers.items()}
        self.handlers = [one for one in self.handlers if getattr(one, "service_name", str)() != service]
        self.handlers.append(grpc.method_handlers_generic_handler(service, checked))


def _checked(service: str, name: str, handler: Any) -> Any:
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour):
        return handler
    if (getattr(behaviour, "__module__", "") or "").endswith("_pb2_grpc"):
        # The generated servicer's own: the method was not written.
        return grpc.unary_unary_rpc_method_handler(_unwritten(service, name))
    raise UsageError(f"{service}/{name} is not async: it would hold up every other call; write `async def {name}`")


def _unwritten(service: str, name: str) -> Any:
    async def answer(_request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"this instance does not implement {service}/{name}")
        raise AssertionError

    return answer
