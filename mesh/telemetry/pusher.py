"""One producer's stream to a sink: what was pushed is acknowledged when it is on disk there."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mesh.discovery.channel import control_channel
from mesh.discovery.targets import Targets
from mesh.errors import UnreachableError
from mesh.telemetry.kinds import LOGS, SinkKind

# A sink that says nothing for so long is taken for dead.
ANSWER_SECONDS = 60.0
# How long to wait after a failure, in seconds; doubled with each one in a row.
FIRST_WAIT = 0.25
LONGEST_WAIT = 15.0


class PushError(UnreachableError):
    """The batch was not acknowledged: it is stored or not. Resume, and go on from there."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        # Seconds that the sink asks for.
        self.retry_after = retry_after


class Sinks:
    """Channels to the control processes, shared by the pushers of a process. Use as `async with`."""

    def __init__(self, control: str) -> None:
        """Take "HOST:PORT[,HOST:PORT...]"."""
        self.control = control
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, target: str) -> grpc.aio.Channel:
        if target not in self._channels:
            self._channels[target] = control_channel(target)
        return self._channels[target]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels.values():
            await channel.close()


class Pusher:
    """Pushes batches of one producer, one at a time."""

    def __init__(self, sinks: Sinks, producer: str, kind: SinkKind = LOGS) -> None:
        self._sinks = sinks
        self._kind = kind
        self._targets = Targets(sinks.control)
        self._producer = producer
        self._call: Any = None
        self._failures = 0

    async def resume(self) -> int:
        """Open the stream anew; returns the last sequence number that is stored, 0 if none is known.

        Raises:
            PushError: the sink does not answer.

        """
        await self.close()
        channel: Any = self._sinks.channel(self._targets.current)
        # Bytes out: a batch is often encoded elsewhere, in a thread or before a restart.
        kind = self._kind
        self._call = channel.stream_stream(kind.push, response_deserializer=kind.response.FromString)()
        durable: int = (await self._ask(kind.request(producer=self._producer).SerializeToString())).durable_seq
        return durable

    async def push(self, request: bytes) -> Any:
        """Push an encoded request of the kind; returns the reply when it is stored, or rejected for good."""
        if self._call is None:
            raise PushError("there is no stream: resume first")
        return await self._ask(request)

    async def pause(self, error: PushError) -> None:
        """Wait before the next try: as long as the sink asks for, and longer with each failure in a row.

        Where there are several sinks, the next one is tried then; after one that was away, at once.
        """
        self._targets.move_on()
        if len(self._targets) > 1 and not error.retry_after and self._failures < len(self._targets) - 1:
            self._failures += 1
            return
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        await asyncio.sleep(max(wait, min(error.retry_after, LONGEST_WAIT)))

    async def close(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
            # Else its end is reported as an error that nobody took note of.
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await call.read()

    async def _ask(self, request: bytes) -> Any:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._call.write(request)
                reply = await self._call.read()
        except TimeoutError:
            await self.close()
            raise PushError(f"{self._kind.sink} has not answered for {ANSWER_SECONDS:g} s") from None
        except asyncio.InvalidStateError:  # the call has ended
            reply = grpc.aio.EOF
        except grpc.aio.AioRpcError as error:
            self._call = None
            raise _push_error(error, self._kind.sink) from error
        if reply is grpc.aio.EOF:
            call, self._call = self._call, None
            ended = grpc.aio.AioRpcError(
                await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
            )
            raise _push_error(ended, self._kind.sink)
        self._failures = 0
        self._targets.reset()
        return reply


def _push_error(error: grpc.aio.AioRpcError, sink: str) -> PushError:
    retry = error_details_pb2.RetryInfo()
    with contextlib.suppress(ValueError):  # a status that contradicts its details
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        for detail in status.details if status is not None else ():
            detail.Unpack(retry)
    if error.code() is grpc.StatusCode.UNAVAILABLE and not retry.ByteSize():
        # The core's own words are of sockets.
        said = f"{sink} cannot be reached"
    else:
        said = f"{sink} answered {error.code().name}: {error.details() or 'nothing more'}"
    return PushError(said, retry.retry_delay.ToMilliseconds() / 1000)
