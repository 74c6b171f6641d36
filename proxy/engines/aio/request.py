"""The client's half of a call: read, kept for a replay while that is possible, written to the upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.engines.aio.channels import Channels

if TYPE_CHECKING:
    from proxy.engines.aio.mirroring import Copy

# A request up to this size can be sent to another endpoint when the first one turns out to be away.
REPLAY_BYTES = 64 * 1024

# How long a client of a unary method may take for its message, and then for its end, before the call is forwarded as a
# stream. All of it usually comes in one packet.
GATHER_SECONDS = 0.05

# An end of the request that follows its message faster than this came in the same frame, or near enough.
AT_ONCE_SECONDS = 0.001

Upstream = grpc.aio.StreamStreamCall[bytes, bytes]


class Request:
    """The messages of a client, passed to one upstream call at a time."""

    def __init__(
        self,
        call: Call,
        dispatcher: Dispatcher,
        channels: Channels,
        context: grpc.aio.ServicerContext[bytes, bytes],
    ) -> None:
        self._call = call
        self._dispatcher = dispatcher
        self._channels = channels
        self._context = context
        # Takes what is read as well, where the call is copied.
        self.copy: Copy | None = None
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._ended = False
        self._read_at = 0.0
        # Messages that were read before there was an attempt to pass them to.
        self._waiting: list[bytes] = []
        # A read outlives the attempt that began it: cut off, it would take the message with it.
        self._reading: asyncio.Task[Any] | None = None
        # What was read but its write was cut off by the end of an attempt stands in `_kept` as well.
        self.replayable = True
        # Called when that ends.
        self.on_forget: Callable[[], None] | None = None
        # What went wrong on this side, such as a message that is refused; the attempt is cancelled then.
        self.error: Exception | None = None

    async def gather(self) -> None:
        """Read the one message of a unary method and its end. Whatever else comes, or does not, nothing is lost."""
        for _ in ("message", "end"):
            self._reading = asyncio.ensure_future(self._context.read())
            await asyncio.wait((self._reading,), timeout=GATHER_SECONDS)
            if not self._reading.done():
                return
            message = self._note(self._reading.result())
            self._reading = None
            if message is None:
                return
            self._waiting.append(message)

    @property
    def only(self) -> bytes | None:
        """The one message of a complete request that was gathered; None when it is to be passed on as a stream."""
        return self._waiting[0] if self._ended and len(self._waiting) == 1 else None

    async def pump(self, upstream: Upstream) -> None:
        """Pass messages on until the client has sent all or the upstream takes no more."""
        try:
            await upstream.wait_for_connection()
            for message in tuple(self._waiting or self._kept):
                await write(upstream, message)
            self._waiting.clear()
            while (read := await self._read()) is not None:
                await write(upstream, read)
            if await self._truly_ended():
                if self.copy is not None:
                    self.copy.end()
                await upstream.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError):
            # The upstream ended the call first: what it said is read on the other side.
            return
        except Exception as error:  # noqa: BLE001 - the attempt raises it where it waits
            self.error = error
            upstream.cancel()

    def forget(self) -> None:
        """Give up the replay: the response has begun."""
        self.replayable = False
        self._kept.clear()
        if self.on_forget is not None:
            self.on_forget()

    async def close(self) -> None:
        """Stop reading, at the end of the call."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> bytes | None:
        if self._ended:
            return None
        return self._note(await self._next())

    def _note(self, message: Any) -> bytes | None:
        """Take note of what was read; None is the end."""
        call = self._call
        if message is grpc.aio.EOF:
            self._ended = True
            call.request_ended_at = self._dispatcher.now()
            return None
        size = len(message)
        limits = self._dispatcher.limits_of(call)
        if size > limits.max_message_bytes:
            raise limits.message_too_large(size, "client")
        call.bytes_in += size
        call.messages_in += 1
        self._read_at = self._dispatcher.now()
        if self.copy is not None:
            self.copy.feed(bytes(message))
        if self.replayable:
            self._keep(message)
        return bytes(message)

    async def _next(self) -> Any:
        if not self.replayable and self._reading is None:
            return await self._context.read()
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._context.read())
        message = await asyncio.shield(self._reading)
        self._reading = None
        return message

    async def _truly_ended(self) -> bool:
        """Tell whether the client sent all: an upstream must not take a cancelled upload for a finished one.

        grpc tells a cancellation as an end of the messages first, and only then as what it is.
        """
        call = self._call
        if call.messages_in == 1 and self._dispatcher.now() - self._read_at < AT_ONCE_SECONDS:
            return True  # the one message of a unary request came together with its end
        await self._channels.caught_up()
        return not self._context.cancelled()

    def _keep(self, message: bytes) -> None:
        self._kept_bytes += len(message)
        if self._kept_bytes > REPLAY_BYTES:
            self.forget()
        else:
            self._kept.append(message)


async def write(upstream: Upstream, message: bytes) -> None:
    """Write a message; raises InternalError when the upstream has ended the call.

    The public `write` then replaces what the upstream said, status, trailers and unread messages, by an INTERNAL of
    its own.
    """
    core: Any = upstream
    await core._cython_call.send_serialized_message(message)  # noqa: SLF001 - see above
