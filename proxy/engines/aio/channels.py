"""One grpc.aio channel per endpoint: connected when first needed, closed after its last call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc

from mesh.tls.credentials import channel_credentials
from mesh.tls.identity import Identity
from mesh.tls.material import Material
from mesh.tls.options import UpstreamTls
from proxy.call.limits import Limits
from proxy.engines.options import PoolOptions, milliseconds
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.tls import server_name

# Windows that stay as they are: core's own estimate grows them without bound when a busy machine answers pings late,
# and with them what a slow reader makes us hold.
FLOW_CONTROL = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 256 * 1024))

_READY = grpc.ChannelConnectivity.READY
_FAILED = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


class Channels:
    """The channels to all endpoints."""

    def __init__(self, limits: Limits, tls: Identity | None = None, pool: PoolOptions | None = None) -> None:
        pool = pool or PoolOptions()
        self._connect_seconds = pool.connect_seconds
        self._tls = tls or Identity("upstream", UpstreamTls())
        self._tls.on_change.append(self._renew)
        self._options = (
            ("grpc.enable_http_proxy", 0),
            # The dispatcher decides on further attempts, and counts them.
            ("grpc.enable_retries", 0),
            # Each endpoint has its own connection, whoever else in this process talks to the same address.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", milliseconds(pool.backoff_seconds)),
            ("grpc.min_reconnect_backoff_ms", milliseconds(pool.connect_seconds)),  # also its limit for one connect
            ("grpc.max_reconnect_backoff_ms", milliseconds(pool.max_backoff_seconds)),
            ("grpc.client_idle_timeout_ms", milliseconds(pool.idle_seconds)),
            *FLOW_CONTROL,
            ("grpc.enable_channelz", 0),
            # Twice ours, so that what is over ours can be answered with a reason.
            ("grpc.max_receive_message_length", 2 * limits.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 4 * limits.max_header_bytes),
            ("grpc.absolute_max_metadata_size", 4 * limits.max_header_bytes),
        )
        self._channels: dict[Endpoint, grpc.aio.Channel] = {}
        self._idle: grpc.aio.Channel | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def get(self, endpoint: Endpoint) -> grpc.aio.Channel:
        """Return the channel of an endpoint."""
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._make(endpoint.address, server_name(endpoint))
            self._channels[endpoint] = channel
        return channel

    async def connect(self, channel: grpc.aio.Channel, time_left: float | None) -> bool:
        """Tell whether the channel is connected, connecting it first where that is needed.

        A channel that failed to connect a moment ago is not waited for: it tries again by itself.
        """
        state = channel.get_state(try_to_connect=True)
        if state is _READY:
            return True
        limit = self._connect_seconds if time_left is None else min(self._connect_seconds, time_left)
        try:
            async with asyncio.timeout(max(limit, 0)):
                while state is not _READY:
                    if state in _FAILED:
                        return False
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            return False
        return True

    async def caught_up(self) -> None:
        """Wait until all is known that grpc core had to tell when this was called.

        What happens to a call at one moment, such as its end and the reason of it, comes as several events one after
        the other. All events pass through one queue, so one more, of any channel, shows that those before it have come.
        """
        if self._idle is None:
            self._idle = grpc.aio.insecure_channel("127.0.0.1:9")  # never connected
        await self._idle.wait_for_state_change(grpc.ChannelConnectivity.SHUTDOWN)  # which it is not, so at once
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def _make(self, address: str, name: str | None) -> grpc.aio.Channel:
        if name is None:
            return grpc.aio.insecure_channel(address, options=self._options)
        options = (*self._options, ("grpc.ssl_target_name_override", name))
        return grpc.aio.secure_channel(address, channel_credentials(self._tls.material), options=options)

    def _renew(self, _material: Material) -> None:
        """Have new channels made with new certificates."""
        self.forget([endpoint for endpoint in self._channels if server_name(endpoint) is not None])

    def forget(self, endpoints: Iterable[Endpoint]) -> None:
        """Close the channels of endpoints that left, once their calls have ended."""
        for endpoint in endpoints:
            channel = self._channels.pop(endpoint, None)
            if channel is not None:
                task = asyncio.create_task(channel.close(grace=None if not endpoint.in_flight else _FOREVER))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every channel, ending the calls on it."""
        if self._renew in self._tls.on_change:
            self._tls.on_change.remove(self._renew)
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        self._channels.clear()
        if self._idle is not None:
            await self._idle.close()
            self._idle = None


# Turns of the loop that grpc.aio takes to hand an event on, and some more.
_TURNS = 5

# A call on an endpoint that left ends when its client, its upstream or its deadline ends it.
_FOREVER = 10.0**8
