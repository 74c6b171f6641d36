"""An upstream call of one request message: a third less work than a stream in grpc.aio.

The public unary calls of grpc.aio end when the status comes, and never if the upstream has more than one message for
them. This is made of the same parts (grpc core's batches), and takes messages as long as there are any: a method that
streams after all loses nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from proxy.engines.aio.metadata import GrpcMetadata


class Status(NamedTuple):
    """How an upstream ended a call."""

    code: int
    details: str
    trailers: GrpcMetadata


class SingleCall:
    """One call with one request message. `cancel` it unless `end` returned."""

    def __init__(
        self, channel: grpc.aio.Channel, method: bytes, message: bytes, metadata: GrpcMetadata, timeout: float | None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        opened: Any = channel
        deadline = None if timeout is None else time.time() + timeout
        self._core: Any = opened._channel.call(method, deadline, None, None)  # noqa: SLF001 - see the module
        self._message = message
        self._metadata = metadata
        self._ended = False
        self._on_end: list[Callable[[Any], object]] = []
        # A channel that closes waits for the calls that it knows.
        opened._register_call(self)  # noqa: SLF001

    async def begin(self) -> tuple[GrpcMetadata, bytes | None]:
        """Send the request; returns the headers of the answer and its first message, None when there is none."""
        headers = cygrpc.ReceiveInitialMetadataOperation(0)
        first = cygrpc.ReceiveMessageOperation(0)
        try:
            await self._run(
                cygrpc.SendInitialMetadataOperation(self._metadata, 0),
                cygrpc.SendMessageOperation(self._message, 0),
                cygrpc.SendCloseFromClientOperation(0),
                headers,
                first,
            )
        except cygrpc.ExecuteBatchError:
            return (), None  # why, the status says
        return headers.initial_metadata(), first.message()

    async def next(self) -> bytes | None:
        """Return the next message, None when there are no more."""
        received = cygrpc.ReceiveMessageOperation(0)
        try:
            await self._run(received)
        except cygrpc.ExecuteBatchError:
            return None
        message: bytes | None = received.message()
        return message

    async def end(self) -> Status:
        """Return the status, which there always is in the end."""
        received = cygrpc.ReceiveStatusOnClientOperation(0)
        await self._run(received)
        self._end()
        return Status(int(received.code()), received.details() or "", received.trailing_metadata() or ())

    def cancel(self) -> bool:
        """End the call where it has not ended; tells whether that was so."""
        if self._ended:
            return False
        # Core cancels a call that is let go of. Its own `cancel` must not be followed by that: core may still read the
        # words of why, which are gone then.
        self._core = None
        self._end()
        return True

    # What grpc.aio's channel asks of a call.

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Have `callback` called with this call once it has ended."""
        self._on_end.append(callback)

    def done(self) -> bool:
        """Tell whether it has ended."""
        return self._ended

    async def code(self) -> None:
        """Wait until it has ended."""
        ended = self._loop.create_future()
        self._on_end.append(lambda _call: None if ended.done() else ended.set_result(None))
        await ended

    def _end(self) -> None:
        self._ended = True
        for callback in self._on_end:
            callback(self)

    async def _run(self, *operations: Any) -> None:
        if self._core is None:  # the channel was closed
            raise asyncio.CancelledError
        await cygrpc.execute_batch(self._core, operations, self._loop)
