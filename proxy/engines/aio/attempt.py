"""One attempt of a call through the aio engine: out through a grpc.aio channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc

from mesh.resilience import outcome
from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.call.reason import Reason, Reject
from proxy.engines.aio.channels import Channels
from proxy.engines.aio.failure import classify
from proxy.engines.aio.metadata import from_grpc, to_grpc
from proxy.engines.aio.request import Request, Upstream
from proxy.engines.aio.single import SingleCall, Status
from proxy.upstream.retry import PUSHBACK, Failure, Retries

# grpc.aio tells that headers came, but not whether they came alone or with a status. A failed call shows its status
# in the same instant; headers that are alone for this long are handed to the client, who may be waiting for them.
HEADERS_ALONE_SECONDS = 0.005

# The server half of grpc core ends a call at its deadline without saying why: the edge answers so much earlier.
ANSWER_SECONDS = 0.01

Context = grpc.aio.ServicerContext[bytes, bytes]

_PUSHBACK = PUSHBACK.decode()


class Failed(Exception):  # noqa: N818 - it is an answer, not an error
    """The upstream call has ended with a status other than OK."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.details)
        self.status = status


class Attempt:
    """One try of a call on one endpoint."""

    def __init__(
        self, call: Call, dispatcher: Dispatcher, channels: Channels, request: Request, context: Context
    ) -> None:
        self.call = call
        self.code = outcome.UNKNOWN
        self.details = ""
        self.reason: Reason | None = None
        self.trailers: Any = None
        self.headers_sent = False
        self._dispatcher = dispatcher
        self._channels = channels
        self._request = request
        self._context = context
        # While the policy's time for an attempt runs, and not the deadline: what ends it, and when the latter is due.
        self._limit: asyncio.Timeout | None = None
        self._due: float | None = None

    async def run(self, channel: grpc.aio.Channel) -> Failure | None:
        """Make the attempt; returns how the connection failed it, None when the upstream answered."""
        left = self.call.time_left(self._dispatcher.now())
        message = self._request.only
        try:
            async with asyncio.timeout(patience(left)) as limit:
                self._limit_attempt(limit)
                if message is None:
                    await self._streamed(channel, left)
                else:
                    await self._single(channel, message, left)
        except Failed as failed:
            return self._failed(failed.status, channel)
        except TimeoutError:
            if self._limit is None:
                self.deadline_passed()
            else:
                self._too_slow()
                return Failure.SLOW
        except Reject as rejection:  # a message of the upstream is over the limit
            self._rejected(rejection)
        except asyncio.CancelledError:
            mistake = self._request.error
            if mistake is None or _cancelled():
                raise  # the client gave up
            if not isinstance(mistake, Reject):
                raise mistake from None
            self._rejected(mistake)
        return None

    def fail(self, failure: Failure, why: str, code: int = outcome.UNAVAILABLE) -> None:
        """Note that the connection failed the attempt."""
        endpoint = self.call.endpoint
        assert endpoint is not None
        connect = failure is Failure.CONNECT
        self.reason = Reason.UPSTREAM_CONNECT_FAILED if connect else Reason.UPSTREAM_RESET
        self.code = code
        what = "cannot be reached" if connect else "went away during the call"
        self.details = f"instance {endpoint.instance_id} of {endpoint.service} {what}: {why}"

    def deadline_passed(self) -> None:
        """Note that the caller's time is up."""
        self.code, self.reason = outcome.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED
        self.details = deadline_message(self.call)

    def pushback(self) -> bytes | None:
        """Return what the upstream said of retries."""
        return next((str(value).encode() for name, value in self.trailers or () if name == _PUSHBACK), None)

    def _limit_attempt(self, limit: asyncio.Timeout) -> None:
        """Give the attempt the time that the policy has for it, where that ends before the call's."""
        retries = retries_of(self.call)
        if retries is None or retries.per_try_seconds is None or not self._request.replayable:
            return
        over, due = asyncio.get_running_loop().time() + retries.per_try_seconds, limit.when()
        if due is None or over < due:
            self._limit, self._due = limit, due
            limit.reschedule(over)
            self._request.on_forget = self._lift

    def _lift(self) -> None:
        """Leave the attempt the call's time: it answers, or cannot be made again."""
        limit, self._limit = self._limit, None
        if limit is not None:
            limit.reschedule(self._due)

    def _too_slow(self) -> None:
        endpoint, retries = self.call.endpoint, retries_of(self.call)
        assert endpoint is not None
        assert retries is not None
        self.code, self.reason = outcome.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED
        who = f"instance {endpoint.instance_id} of {endpoint.service}"
        self.details = f"{who} took longer than the {retries.per_try_seconds:g} s of an attempt"

    async def _streamed(self, channel: grpc.aio.Channel, left: float | None) -> None:
        """Pass on streams both ways; raises Failed."""
        call = self.call
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(call.method.decode())
        upstream = method(metadata=grpc.aio.Metadata(*to_grpc(call.request_metadata())), timeout=left)
        pump = asyncio.create_task(self._request.pump(upstream))
        try:
            await self._responses(upstream)
            self._succeeded(await upstream.details() or "", await upstream.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            trailers: Any = error.trailing_metadata()
            raise Failed(Status(error.code().value[0], error.details() or "", trailers)) from error
        finally:
            upstream.cancel()
            pump.cancel()
            await asyncio.wait((pump,))

    async def _single(self, channel: grpc.aio.Channel, message: bytes, left: float | None) -> None:
        """Pass on a whole request and what answers it; raises Failed."""
        call = self.call
        upstream = SingleCall(channel, call.method, message, to_grpc(call.request_metadata()), left)
        try:
            headers, reply = await upstream.begin()
            if headers or reply is not None:
                await self._begin_response(headers)
            while reply is not None:
                await self._pass(reply)
                reply = await upstream.next()
            status = await upstream.end()
        finally:
            upstream.cancel()
        if status.code != outcome.OK:
            raise Failed(status)
        if not self.headers_sent:
            await self._begin_response(headers)
        self._succeeded(status.details, status.trailers)

    async def _responses(self, upstream: Upstream) -> None:
        headers = await upstream.initial_metadata()
        # Not by `read`, which forgets messages when the status has come already.
        messages = aiter(upstream)
        read: asyncio.Task[Any] = asyncio.ensure_future(anext(messages, None))
        try:
            if not headers:
                await self._channels.caught_up()
                await asyncio.wait((read,), timeout=HEADERS_ALONE_SECONDS)
                if read.done():
                    read.result()  # raises when the call failed without headers
            await self._begin_response(headers)
            message = await read
        finally:
            read.cancel()
            await asyncio.gather(read, return_exceptions=True)
        if message is not None:
            await self._pass(message)
            async for message in messages:
                await self._pass(message)

    async def _pass(self, message: bytes) -> None:
        size = len(message)
        limits, call = self._dispatcher.limits_of(self.call), self.call
        if size > limits.max_message_bytes:
            raise limits.message_too_large(size, "upstream")
        await _to_client(self._context.write(message))
        call.bytes_out += size
        call.messages_out += 1

    async def _begin_response(self, headers: Any) -> None:
        received = from_grpc(headers)
        self._dispatcher.limits.check_reply(received)
        self._request.forget()
        self._dispatcher.on_response(self.call)
        self.headers_sent = True
        reply = self.call.reply_metadata
        own = {name for name, _ in reply}
        passed = [pair for pair in received if pair[0] not in own]
        await _to_client(self._context.send_initial_metadata(to_grpc((*passed, *reply))))

    def _succeeded(self, details: str, trailers: Any) -> None:
        self.code, self.details = outcome.OK, details
        self._take_trailers(trailers)

    def _failed(self, status: Status, channel: grpc.aio.Channel) -> Failure | None:
        self.code, self.details = status.code, status.details
        try:
            self._take_trailers(status.trailers)
        except Reject as rejection:
            self._rejected(rejection)
            return None
        left = self.call.time_left(self._dispatcher.now())
        if self.code == outcome.DEADLINE_EXCEEDED and left is not None and left <= ANSWER_SECONDS:
            self.deadline_passed()
            return None
        said = classify(self.code, self.details, channel)
        self.code, self.reason = said.code, said.reason
        if said.failure is not None:
            self.fail(said.failure, self.details, said.code)
        return said.failure

    def _take_trailers(self, trailers: Any) -> None:
        if trailers:
            received = from_grpc(trailers)
            self._dispatcher.limits.check_reply(received)
            self.trailers = to_grpc(received)

    def _rejected(self, rejection: Reject) -> None:
        self.reason, self.code, self.details = rejection.reason, rejection.reason.code, rejection.message


def retries_of(call: Call) -> Retries | None:
    """Return the retry policy of a call's route."""
    plan = call.route.plan if call.route is not None else None
    return plan.retries if plan is not None else None


def patience(left: float | None) -> float | None:
    """Return how long to wait for what must be answered before a deadline."""
    return None if left is None else left - min(ANSWER_SECONDS, left / 10)


def _cancelled() -> bool:
    """Tell whether the running task is being cancelled, and not just something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def deadline_message(call: Call) -> str:
    """Return what is said of a deadline that passed."""
    assert call.deadline is not None
    where = f" waiting for {call.endpoint.service}" if call.endpoint is not None else ""
    return f"the deadline of {call.deadline - call.started_at:.3f} s passed{where}"


async def _to_client(sending: Awaitable[None]) -> None:
    """Send to the client; a client that is gone counts as one that cancelled, whichever grpc notices first."""
    try:
        await sending
    except grpc.aio.InternalError as error:
        raise asyncio.CancelledError from error
