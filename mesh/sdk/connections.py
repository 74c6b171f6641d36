"""One grpc.aio channel per endpoint: connected when first needed, closed after its last call."""

from __future__ import annotations

import asyncio

import grpc

from mesh.options import client_tls
from mesh.sdk.endpoints import Endpoint
from mesh.tls.credentials import channel_credentials
from mesh.tls.identity import Identity
from mesh.tls.options import UpstreamTls

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_http_proxy", 0),
    # The mesh decides on further attempts, and counts them.
    ("grpc.enable_retries", 0),
    # Each endpoint has its own connection, whoever else in this process talks to the same address.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name: how long one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_channelz", 0),
    # Notice a peer that died without a word while it owes an answer. Plain servers take more than one ping in five
    # minutes for abuse, and close the connection.
    ("grpc.keepalive_time_ms", 310_000),
    # Also how long the kernel waits for a peer to acknowledge bytes before it ends the connection (TCP_USER_TIMEOUT).
    # Where packets vanish and many calls were sent, they end no sooner than that, whatever their deadlines
    # (docs/decisions.md). A peer that hangs is another matter: its kernel acknowledges.
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", 16 << 20),
)

# Metadata of an instance: "on", and the name in its certificate where that is not the host of its address.
_TLS, _SERVER_NAME = "tls", "tls-server-name"


class Connections:
    """The channels of one process to the instances that it calls."""

    def __init__(self) -> None:
        self._tls: Identity | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def connect(self, endpoint: Endpoint) -> grpc.aio.Channel:
        """Return a new channel to an endpoint, by TLS where it is registered with `tls=on`."""
        metadata, address = endpoint.instance.metadata, endpoint.address
        if metadata.get(_TLS, "").lower() != "on":
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        if self._tls is None:
            self._tls = Identity("upstream", UpstreamTls(*client_tls()))
        self._tls.check()
        host = "localhost" if address.startswith("unix:") else address.rpartition(":")[0].strip("[]")
        name = metadata.get(_SERVER_NAME) or host
        options = (*_OPTIONS, ("grpc.ssl_target_name_override", name))
        return grpc.aio.secure_channel(address, channel_credentials(self._tls.material), options=options)

    def forget(self, endpoint: Endpoint) -> None:
        """Close the channel of an endpoint that left, once its calls have ended."""
        endpoint.left = True
        channel = endpoint.let_go()
        if channel is not None:
            task = asyncio.create_task(channel.close(grace=None if not endpoint.in_flight else _FOREVER))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Give up waiting for the calls of endpoints that left."""
        closing = list(self._closing)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)


# A call on an endpoint that left ends when its caller, its upstream or its deadline ends it.
_FOREVER = 10.0**8
