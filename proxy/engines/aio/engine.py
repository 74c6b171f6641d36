"""The aio engine: a grpc.aio server per listener, a grpc.aio channel per endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import grpc

from mesh.listening import cannot_listen, prove_free
from mesh.tls.identity import Identity
from proxy.call.dispatch import Dispatcher
from proxy.call.limits import Limits
from proxy.engines.aio.channels import FLOW_CONTROL, Channels
from proxy.engines.aio.claims import UnaryClaims
from proxy.engines.aio.credentials import server_credentials
from proxy.engines.aio.forward import Drain, Forwarder, Peers
from proxy.engines.aio.local import LocalCalls
from proxy.engines.engine import Listener
from proxy.engines.options import PoolOptions, Protection, differing, milliseconds
from proxy.upstream.endpoint import Endpoint

Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]"


class AioEngine:
    """Forwards calls on plain grpc.aio."""

    name = "aio"

    def __init__(
        self,
        dispatcher: Dispatcher,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        *,
        upstream_tls: Identity | None = None,
        protection: Protection | None = None,
        pool: PoolOptions | None = None,
    ) -> None:
        """Make an engine; third-party `interceptors` run before the mesh's own."""
        self._dispatcher = dispatcher
        self._interceptors = tuple(interceptors)
        self._protection = protection or Protection()
        self._channels = Channels(dispatcher.limits, upstream_tls, pool)
        self._servers: list[grpc.aio.Server] = []
        self._forwarder: Forwarder | None = None
        self._drain = Drain()
        self._peers = Peers()
        # Which methods are unary; told by whoever asks the instances.
        self.claims = UnaryClaims()
        self._local = LocalCalls(dispatcher, self._drain, self._peers)

    async def start(self, listeners: Sequence[Listener]) -> Mapping[str, str]:
        """See Engine.start."""
        self._peers.learn(listeners)
        self._forwarder = forwarder = Forwarder(self._dispatcher, self._channels, self._drain, self._peers, self.claims)
        local = self._local
        addresses = {}
        for listener in listeners:
            entry = PipelineInterceptor(listener.name, forwarder, local)
            server = grpc.aio.server(
                interceptors=(*self._interceptors, entry),
                options=_server_options(self._dispatcher.limits, self._protection, shared=listener.shared),
            )
            listener.add_local(server)
            addresses[listener.name] = await _bind(server, listener)
            self._servers.append(server)
        for server in self._servers:
            await server.start()
        return addresses

    def follow(self, limits: Limits, protection: Protection) -> Sequence[str]:
        """See Engine.follow. The limits of calls are the dispatcher's; grpc's core keeps what it was started with."""
        return differing("protection", self._protection, protection)

    def forget(self, endpoints: Iterable[Endpoint]) -> None:
        """See Engine.forget."""
        self._channels.forget(endpoints)

    async def stop(self, grace: float) -> None:
        """See Engine.stop."""
        servers, self._servers = self._servers, []
        # grpc would end what is left by itself; by then calls should know why.
        stopping = [asyncio.create_task(server.stop(2 * grace + 1)) for server in servers]
        self._local.end_streams()
        if stopping:
            await asyncio.wait(stopping, timeout=grace)
        self._drain.over = True
        await asyncio.gather(*(server.stop(None) for server in servers))
        await asyncio.gather(*stopping)
        if self._forwarder is not None:
            await self._forwarder.copies.close()
        await self._channels.close()


class PipelineInterceptor(grpc.aio.ServerInterceptor):
    """Where grpc.aio hands calls to the mesh's pipeline."""

    def __init__(self, listener: str, forwarder: Forwarder, local: LocalCalls) -> None:
        self._listener = listener
        self._forwarder = forwarder
        self._local = local

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any]:
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is not None:
            return self._local.wrap(self._listener, method, handler)

        async def forward(_request: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            await self._forwarder.handle(self._listener, method, context)

        # Streams both ways, whatever the method is: on the wire the four kinds do not differ, and grpc.aio's unary
        # handlers never answer a call that ends without a message.
        return grpc.stream_stream_rpc_method_handler(forward)


def _server_options(limits: Limits, protection: Protection, *, shared: bool) -> tuple[tuple[str, int], ...]:
    age = limits.max_connection_age_seconds
    return (
        *((("grpc.max_connection_age_ms", milliseconds(age)),) if age is not None else ()),
        ("grpc.max_connection_idle_ms", milliseconds(protection.idle_seconds)),
        ("grpc.server_handshake_timeout_ms", milliseconds(protection.handshake_seconds)),
        ("grpc.max_allowed_incoming_connections", protection.max_connections),
        *FLOW_CONTROL,
        # A tenth of what a call costs, for a page that nobody can open here.
        ("grpc.enable_channelz", 0),
        # For the workers of one edge; else a second process could share the port unseen.
        ("grpc.so_reuseport", int(shared)),
        # Larger than our own limits, so that what is over ours is answered with a reason, and what is over these
        # does not reach Python at all.
        ("grpc.max_receive_message_length", 2 * limits.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 4 * limits.max_header_bytes),
        ("grpc.absolute_max_metadata_size", 4 * limits.max_header_bytes),
        ("grpc.max_concurrent_streams", limits.max_streams_per_connection),
        # grpc core cancels calls at random, of all clients, once 1,000 wait for a handler, as under a flood of resets.
        # Ours are refused with a reason, by a limit of our own.
        ("grpc.server.max_pending_requests", 4 * limits.max_calls_in_flight),
        ("grpc.server.max_pending_requests_hard_limit", 8 * limits.max_calls_in_flight),
        # Clients may ping every 10 s, also without a call: many do, and the default would cut them off.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    )


async def _bind(server: grpc.aio.Server, listener: Listener) -> str:
    host, option = listener.address.rpartition(":")[0], f"--{listener.name}"
    if not listener.shared:  # whose master has proved it
        await prove_free(listener.address, option)
    try:
        if listener.tls is None:
            port = server.add_insecure_port(listener.address)
        else:
            port = server.add_secure_port(listener.address, server_credentials(listener.tls))
    except RuntimeError as error:
        raise cannot_listen(listener.address, option, str(error)) from error
    return f"{host}:{port}"
