"""Calls that stream requests, replies or both.

An attempt may be followed by another one as long as nothing was answered and all that was sent is still at hand: the
one request of a server stream is, and of a stream of requests the first few.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from typing import Any

import grpc

from mesh.sdk.attempt import Attempt
from mesh.sdk.refusal import Refused
from mesh.sdk.work import Work

# Of a stream of requests so many are kept for another attempt; a stream that has sent more is not begun anew.
MOST_KEPT = 16


class _StreamCall(Work):
    """What the three kinds have in common."""

    is_unary = False

    def __init__(
        self, method: Any, request: Any, timeout: float | None, metadata: Any, options: dict[str, Any]
    ) -> None:
        super().__init__(method, timeout, metadata, options)
        self._request = request
        # Something came; something of the requests was taken.
        self._answered = False
        self._sent = False
        self._cancelled = False
        # What begins an attempt, where that cannot be done at once.
        self._moving: asyncio.Task[None] | None = None
        if method.upstream.known and (self.plan.targets.willing or not options):
            try:
                self.admit()
                self.next_attempt(self._requests())
            except Refused as refused:
                self.refuse(refused)
        else:
            self._moving = self.spawn(self._first())

    def _requests(self) -> Any:
        """Return what an attempt sends."""
        return self._request

    def _replayable(self) -> bool:
        """Tell whether all that was sent can be sent once more."""
        return not self._sent

    def attempt_over(self, attempt: Attempt, now: float) -> None:
        """Begin another attempt where that is right, else end the call."""
        if attempt is not self.last:
            return
        wait = self.wait_before_next(attempt, now, replayable=not self._answered and self._replayable())
        if wait is None or self._cancelled:
            self.error = attempt.error()
            self.finish(attempt.code, attempt.details)
            return
        self.note_attempt(attempt, now)
        self._moving = self.spawn(self._again(wait, attempt))

    async def _first(self) -> None:
        try:
            await self.method.wait_known(self)
            self.admit()
            self.next_attempt(self._requests())
        except Refused as refused:
            self.refuse(refused)

    async def _again(self, wait: float, before: Attempt) -> None:
        try:
            if wait:
                await asyncio.sleep(wait)
            self.next_attempt(self._requests(), again=bool(wait))
        except Refused:  # that there is no other instance says less than what the last one said
            self.error = before.error()
            self.finish(before.code, before.details)

    async def _inner(self) -> Any:
        """Return grpc's call of the attempt that is under way or was the last; raises what ended the call before it."""
        while self._moving is not None and not self._moving.done():
            await asyncio.wait((self._moving,))
        if self._cancelled and (self.last is None or self._moving is not None):
            raise asyncio.CancelledError
        if self.last is None or (self.error is not None and not self._answered):
            assert self.error is not None
            raise self.error
        return self.last.inner

    def _moved_on(self, inner: Any) -> bool:
        """Tell whether there is another attempt, or another error to tell, than that of `inner`."""
        if self._moving is not None and not self._moving.done():
            return True
        return self.last is not None and (self.last.inner is not inner or self.error is not None)

    async def _through(self, act: Callable[[Any], Any]) -> Any:
        """Return what `act` makes of the attempt that is not followed by another one."""
        while True:
            inner = await self._inner()
            try:
                return await act(inner)
            except grpc.aio.AioRpcError:
                if not self._moved_on(inner):
                    raise
            except asyncio.InvalidStateError:  # its end was noticed first
                await inner.code()
                if not self._moved_on(inner):
                    raise

    # What grpc.aio's calls have beside.

    def cancel(self) -> bool:
        """Cancel the call; tells whether there was something to cancel."""
        if self.finished:
            return False
        self._cancelled = True
        if self._moving is not None and not self._moving.done():
            return self._moving.cancel()
        assert self.last is not None
        return bool(self.last.inner.cancel())

    def cancelled(self) -> bool:
        """Tell whether it was cancelled here."""
        return self._cancelled or (self.finished and self.last is not None and bool(self.last.inner.cancelled()))

    def done(self) -> bool:
        """Tell whether it has ended."""
        return self.finished

    def time_remaining(self) -> float | None:
        """Return the seconds until its deadline."""
        return self.time_left(self.method.client.now())

    async def initial_metadata(self) -> Any:
        """Return what the answer began with."""
        while True:
            try:
                inner = await self._inner()
            except grpc.aio.AioRpcError as error:
                return error.initial_metadata()
            found = await inner.initial_metadata()
            if not self._moved_on(inner) or self.error is not None:
                return found

    async def trailing_metadata(self) -> Any:
        """Return what the answer ended with."""
        inner = await self._end()
        return self.error.trailing_metadata() if self.error is not None else await inner.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        """Return how it ended."""
        inner = await self._end()
        code: grpc.StatusCode = self.error.code() if self.error is not None else await inner.code()
        return code

    async def details(self) -> str:
        """Return what was said of that."""
        inner = await self._end()
        details: str = (self.error.details() or "") if self.error is not None else await inner.details()
        return details

    async def debug_error_string(self) -> str:
        """Return what grpc core knows of an error."""
        inner = await self._end()
        text: str = "" if inner is None else await inner.debug_error_string()
        return text

    async def wait_for_connection(self) -> None:
        """Wait until it is on its way, or has failed."""
        await self._through(lambda inner: inner.wait_for_connection())

    async def _end(self) -> Any:
        while True:
            try:
                inner = await self._inner()
            except grpc.aio.AioRpcError:
                return None if self.last is None else self.last.inner
            await inner.code()
            if not self._moved_on(inner) or self.error is not None:
                return inner


class _Replies(_StreamCall):
    """Replies come as a stream."""

    def __aiter__(self) -> AsyncIterator[Any]:
        """Return the replies, one after the other; raises AioRpcError where it does not end well."""
        found: AsyncIterator[Any] | None = getattr(self, "_messages", None)
        if found is None:
            found = self._messages = self._fetch()
        return found

    async def read(self) -> Any:
        """Return the next reply, grpc.aio.EOF after the last one; raises AioRpcError where it does not end well."""
        message = await self._through(lambda inner: inner.read())
        self._answered = True
        return message

    async def _fetch(self) -> AsyncIterator[Any]:
        while True:
            inner = await self._inner()
            try:
                async for message in inner:
                    self._answered = True
                    yield message
            except grpc.aio.AioRpcError:
                if self._answered or not self._moved_on(inner):
                    raise
            else:
                return


class _Requests(_StreamCall):
    """Requests go as a stream."""

    def _requests(self) -> Any:
        if self._request is None:
            return None
        if not hasattr(self, "_kept"):
            self._kept: list[Any] = []
            self._pulling = False
            given = self._request
            self._source: AsyncIterator[Any] = aiter(given if hasattr(given, "__aiter__") else _async(given))
        return self._taken()

    def _replayable(self) -> bool:
        # While the next one is waited for, nobody else may ask for it.
        return not self._sent and not getattr(self, "_pulling", False)

    async def write(self, request: Any) -> None:
        """Send one more request."""
        await self._through(lambda inner: inner.write(request))
        self._sent = True

    async def done_writing(self) -> None:
        """Say that there are no more requests."""
        await self._through(lambda inner: inner.done_writing())

    async def _taken(self) -> AsyncIterator[Any]:
        """Hand the requests on: those that an attempt before took, and those that nobody did."""
        for request in tuple(self._kept):
            yield request
        while True:
            self._pulling = True
            try:
                request = await anext(self._source)
            except StopAsyncIteration:
                return
            finally:
                self._pulling = False
            if not self._sent and not self._answered and len(self._kept) < MOST_KEPT:
                self._kept.append(request)
            else:
                self._sent = True
                self._kept.clear()
            yield request


async def _async(requests: Iterable[Any]) -> AsyncIterator[Any]:
    for request in requests:
        yield request


class UnaryStreamCall(_Replies):
    """One request, a stream of replies."""


class StreamUnaryCall(_Requests):
    """A stream of requests, one reply."""

    def __await__(self) -> Generator[Any, None, Any]:
        """Return the reply; raises AioRpcError."""

        async def reply(inner: Any) -> Any:
            return await inner

        return self._through(reply).__await__()


class StreamStreamCall(_Requests, _Replies):
    """Streams both ways."""
