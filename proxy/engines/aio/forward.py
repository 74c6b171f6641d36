"""One call through the aio engine: in from a grpc.aio server, out through a grpc.aio channel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc

from mesh.resilience import outcome
from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.call.reason import TRAILER, Reason, Reject
from proxy.engines.aio.channels import Channels
from proxy.engines.aio.failure import classify
from proxy.engines.aio.metadata import check_printable, from_grpc, to_grpc
from proxy.engines.aio.request import Request, Upstream
from proxy.engines.engine import Listener
from proxy.tls.peer import identity_in
from proxy.upstream.retry import Failure, may_retry

# grpc.aio tells that headers came, but not whether they came alone or with a status. A failed call shows its status
# in the same instant; headers that are alone for this long are handed to the client, who may be waiting for them.
HEADERS_ALONE_SECONDS = 0.005

# The server half of grpc core ends a call at its deadline without saying why: the edge answers so much earlier.
ANSWER_SECONDS = 0.01

Context = grpc.aio.ServicerContext[bytes, bytes]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def status_code(code: int) -> grpc.StatusCode:
    """Return grpc's name for a status code, UNKNOWN for numbers that have none."""
    return _CODES.get(code, grpc.StatusCode.UNKNOWN)


class Drain:
    """What calls must know of the end of their engine."""

    def __init__(self) -> None:
        # The grace is over: calls that are still in flight are cut off.
        self.over = False


class Peers:
    """The listeners whose clients show certificates; only there is grpc asked for them."""

    def __init__(self) -> None:
        self._listeners: frozenset[str] = frozenset()

    def learn(self, listeners: Iterable[Listener]) -> None:
        """Learn what each listener asks of its clients."""
        self._listeners = frozenset(one.name for one in listeners if one.tls is not None and one.tls.asks_clients)

    def identity(self, listener: str, context: Context) -> str:
        """Return whose certificate a client showed. Only while its call lives: grpc crashes when asked later."""
        return identity_in(context.auth_context()) if listener in self._listeners else ""


class Forwarder:
    """Passes calls from a listener to upstreams."""

    def __init__(self, dispatcher: Dispatcher, channels: Channels, drain: Drain, peers: Peers) -> None:
        self._dispatcher = dispatcher
        self._channels = channels
        self._drain = drain
        self._peers = peers

    async def handle(self, listener: str, method: str, context: Context) -> None:
        """Serve one call."""
        call = begin(self._dispatcher, listener, method, context)
        call.peer_identity = self._peers.identity(listener, context)
        try:
            await admit(self._dispatcher, call)
            check_printable(call.metadata)
            await self._attempts(call, context)
        except Reject as rejection:
            call.reject(rejection)
            await answer(call, context)
        except asyncio.CancelledError:
            gave_up(call, self._dispatcher.now(), self._drain)
            raise
        except Exception:
            call.finish(outcome.INTERNAL, "the edge failed", Reason.INTERNAL)
            raise
        finally:
            self._dispatcher.end(call)

    async def _attempts(self, call: Call, context: Context) -> None:
        request = Request(call, self._dispatcher, self._channels, context)
        try:
            await self._try_all(call, context, request)
        finally:
            await request.close()

    async def _try_all(self, call: Call, context: Context, request: Request) -> None:
        while True:
            endpoint = self._dispatcher.next_endpoint(call)
            channel = self._channels.get(endpoint)
            attempt = Attempt(call, self._dispatcher, self._channels, request, context)
            try:
                failure = await self._try(attempt, channel)
            except asyncio.CancelledError:
                gave_up(call, self._dispatcher.now(), self._drain)
                self._dispatcher.end_attempt(call, call.status, call.message, call.reason)
                raise
            except BaseException:
                # Reached only by a defect of ours: the endpoint's permit goes back all the same.
                self._dispatcher.end_attempt(call, outcome.INTERNAL, "the edge failed", Reason.INTERNAL)
                raise
            self._dispatcher.end_attempt(call, attempt.code, attempt.details, attempt.reason)
            if failure is None or not may_retry(call, failure, replayable=request.replayable):
                await answer(call, context, attempt.trailers, headers_sent=attempt.headers_sent)
                return

    async def _try(self, attempt: Attempt, channel: grpc.aio.Channel) -> Failure | None:
        call = attempt.call
        if not await self._channels.connect(channel, call.time_left(self._dispatcher.now())):
            left = call.time_left(self._dispatcher.now())
            if left is not None and left <= 0:
                attempt.deadline_passed()
                return None
            attempt.fail(Failure.CONNECT, "the connection was refused or timed out")
            return Failure.CONNECT
        return await attempt.run(channel)


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

    async def run(self, channel: grpc.aio.Channel) -> Failure | None:
        """Make the attempt; returns how the connection failed it, None when the upstream answered."""
        call = self.call
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(call.method.decode())
        left = call.time_left(self._dispatcher.now())
        upstream = method(metadata=grpc.aio.Metadata(*to_grpc(call.request_metadata())), timeout=left)
        pump = asyncio.create_task(self._request.pump(upstream))
        try:
            async with asyncio.timeout(None if left is None else left - min(ANSWER_SECONDS, left / 10)):
                await self._responses(upstream)
            self.code, self.details = outcome.OK, await upstream.details() or ""
            self._take_trailers(await upstream.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            return self._failed(error, channel)
        except TimeoutError:
            self.deadline_passed()
        except Reject as rejection:  # a message of the upstream is over the limit
            self._rejected(rejection)
        except asyncio.CancelledError:
            mistake = self._request.error
            if mistake is None or _cancelled():
                raise  # the client gave up
            if not isinstance(mistake, Reject):
                raise mistake from None
            self._rejected(mistake)
        finally:
            upstream.cancel()
            pump.cancel()
            await asyncio.wait((pump,))
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
        await self._context.write(message)
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
        await self._context.send_initial_metadata(to_grpc((*passed, *reply)))

    def _failed(self, error: grpc.aio.AioRpcError, channel: grpc.aio.Channel) -> Failure | None:
        self.code = error.code().value[0]
        self.details = error.details() or ""
        try:
            self._take_trailers(error.trailing_metadata())
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


def _cancelled() -> bool:
    """Tell whether the running task is being cancelled, and not just something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def begin(dispatcher: Dispatcher, listener: str, method: str, context: Context) -> Call:
    """Return the call that a context stands for."""
    call = dispatcher.begin(listener, method.encode(), from_grpc(context.invocation_metadata()), context.peer())
    left = context.time_remaining()
    if left is not None:
        call.deadline = call.started_at + left
    return call


async def admit(dispatcher: Dispatcher, call: Call) -> None:
    """Run the way in; raises Reject."""
    assert call.pipeline is not None
    if call.pipeline.is_async:
        await dispatcher.admit_async(call)
    else:
        dispatcher.admit(call)


async def answer(call: Call, context: Context, trailers: Any = None, *, headers_sent: bool = False) -> None:
    """Send the status of a call, and the headers where they were not sent yet."""
    if not headers_sent:
        await context.send_initial_metadata(to_grpc(call.reply_metadata))
    context.set_code(status_code(call.status))
    context.set_details(call.message)
    given = tuple(trailers or ())
    if call.reason is not None:
        given = (*given, (TRAILER.decode(), call.reason.text))
    if given:
        context.set_trailing_metadata(given)


def gave_up(call: Call, now: float, drain: Drain) -> None:
    """Note that grpc cancelled the call from below: the deadline passed, or the client cancelled or left."""
    if drain.over:
        call.finish(outcome.UNAVAILABLE, "the edge ended before the call did", Reason.DRAINING)
    elif call.deadline is not None and call.deadline <= now + ANSWER_SECONDS:
        call.finish(outcome.DEADLINE_EXCEEDED, deadline_message(call), Reason.DEADLINE_EXCEEDED)
    else:
        call.finish(outcome.CANCELLED, "the client cancelled the call")


def deadline_message(call: Call) -> str:
    """Return what is said of a deadline that passed."""
    assert call.deadline is not None
    where = f" waiting for {call.endpoint.service}" if call.endpoint is not None else ""
    return f"the deadline of {call.deadline - call.started_at:.3f} s passed{where}"
