"""The client's half of a call: read, kept for a replay while that is possible, written to the upstream."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.call.reason import Reject

# A request up to this size can be sent to another endpoint when the first one turns out to be away.
REPLAY_BYTES = 64 * 1024

Upstream = grpc.aio.StreamStreamCall[bytes, bytes]


class Request:
    """The messages of a client, passed to one upstream call at a time."""

    def __init__(self, call: Call, dispatcher: Dispatcher, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._call = call
        self._dispatcher = dispatcher
        self._context = context
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._ended = False
        # What was read but its write was cut off by the end of an attempt stands in `_kept` as well.
        self.replayable = True
        # Set when a message of the client is refused; the attempt is cancelled then.
        self.rejection: Reject | None = None

    async def pump(self, upstream: Upstream) -> None:
        """Pass messages on until the client has sent all or the upstream takes no more."""
        try:
            for message in tuple(self._kept):
                await upstream.write(message)
            while (read := await self._read()) is not None:
                await upstream.write(read)
            await upstream.done_writing()
        except Reject as rejection:
            self.rejection = rejection
            upstream.cancel()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The upstream ended the call first: what it said is read on the other side.
            return

    def forget(self) -> None:
        """Give up the replay: the response has begun."""
        self.replayable = False
        self._kept.clear()

    async def _read(self) -> bytes | None:
        if self._ended:
            return None
        message: Any = await self._context.read()
        call = self._call
        if message is grpc.aio.EOF:
            self._ended = True
            call.request_ended_at = self._dispatcher.now()
            return None
        size = len(message)
        limits = self._dispatcher.limits
        if size > limits.max_message_bytes:
            raise limits.message_too_large(size, "client")
        call.bytes_in += size
        call.messages_in += 1
        if self.replayable:
            self._keep(message)
        return bytes(message)

    def _keep(self, message: bytes) -> None:
        self._kept_bytes += len(message)
        if self._kept_bytes > REPLAY_BYTES:
            self.forget()
        else:
            self._kept.append(message)
