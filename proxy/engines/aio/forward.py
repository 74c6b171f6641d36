"""One call through the aio engine: in from a grpc.aio server, out through a grpc.aio channel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

import grpc

from mesh.resilience import outcome
from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.call.reason import TRAILER, Reason, Reject
from proxy.engines.aio.attempt import ANSWER_SECONDS, Attempt, Context, deadline_message, patience, retries_of
from proxy.engines.aio.channels import Channels
from proxy.engines.aio.claims import UnaryClaims
from proxy.engines.aio.metadata import check_printable, from_grpc, to_grpc
from proxy.engines.aio.mirroring import Copies
from proxy.engines.aio.request import Request
from proxy.engines.engine import Listener
from proxy.tls.peer import identity_in
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.retry import Failure, may_retry

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

    def __init__(
        self, dispatcher: Dispatcher, channels: Channels, drain: Drain, peers: Peers, claims: UnaryClaims
    ) -> None:
        self._dispatcher = dispatcher
        self._channels = channels
        self._drain = drain
        self._peers = peers
        self._claims = claims
        self.copies = Copies(dispatcher, channels)

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
            await answer(call, context, to_grpc(rejection.trailers))
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
        copy = request.copy = self.copies.begin(call)
        try:
            if call.method in self._claims.methods:
                await self._gather(call, request)
                if copy is not None and request.only is not None:
                    copy.end()
            await self._try_all(call, context, request)
            if request.only is not None and call.status == outcome.OK and call.messages_out != 1:
                self._claims.refute(call.method)
        finally:
            if copy is not None:
                copy.let_go()
            await request.close()

    async def _gather(self, call: Call, request: Request) -> None:
        """Wait for the whole request of a unary method; raises Reject when the deadline comes first."""
        try:
            async with asyncio.timeout(patience(call.time_left(self._dispatcher.now()))):
                await request.gather()
        except TimeoutError:
            raise Reject(Reason.DEADLINE_EXCEEDED, deadline_message(call)) from None

    async def _try_all(self, call: Call, context: Context, request: Request) -> None:
        endpoint = self._dispatcher.next_endpoint(call)
        while True:
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
            following = await self._next(attempt, failure, replayable=request.replayable)
            if following is None:
                await answer(call, context, attempt.trailers, headers_sent=attempt.headers_sent)
                return
            endpoint = following

    async def _next(self, attempt: Attempt, failure: Failure | None, *, replayable: bool) -> Endpoint | None:
        """Return the endpoint of another attempt, None when the one that ended is the call's answer."""
        call, dispatcher = attempt.call, self._dispatcher
        if failure is not None and may_retry(call, failure, replayable=replayable):
            with contextlib.suppress(Reject):
                return dispatcher.next_endpoint(call)
        retries = retries_of(call)
        if retries is None:
            return None
        pushback = attempt.pushback() if failure is None else None
        delay = retries.delay(call, failure, dispatcher.now(), replayable=replayable, pushback=pushback)
        if delay is None:
            return None
        await asyncio.sleep(delay)
        try:
            return dispatcher.retry_endpoint(call)
        except Reject:
            return None  # there is nobody any more: then the answer is what the last one said

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
