"""Calls with one request and one reply.

What nearly all calls are, an attempt that succeeds, costs no task and no future beside grpc's own: the attempt is begun
at once, and its end is learnt by a callback. Only where there is more to do (a wait, another attempt, a hedge) does a
task go on with the call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import grpc

from mesh.resilience import outcome
from mesh.resilience.policy import HedgeOptions
from mesh.sdk.attempt import Attempt, at_once
from mesh.sdk.refusal import Refused
from mesh.sdk.work import Work

_NOTHING = object()
_UNAVAILABLE = (outcome.UNAVAILABLE,)


def _given_up(attempt: Attempt) -> bool:
    """Tell, of an attempt whose wait was cancelled, whether that is as it was given up, and not its caller's end."""
    task = asyncio.current_task()
    return attempt.overdue and (task is None or not task.cancelling())


class UnaryCall(Work):
    """One call; what grpc.aio's UnaryUnaryCall is."""

    __slots__ = ("_cancelled", "_reply", "_task")

    def __init__(
        self, method: Any, request: Any, timeout: float | None, metadata: Any, options: dict[str, Any]
    ) -> None:
        super().__init__(method, timeout, metadata, options)
        self._request = request
        self._cancelled = False
        self._reply: Any = _NOTHING
        # What goes on with the call; None while the first attempt is all there is.
        self._task: asyncio.Task[None] | None = None
        try:
            if method.upstream.known and self.plan.hedge is None and (self.plan.targets.willing or not options):
                self.admit()
                self.next_attempt(request)
            else:
                self._task = self.spawn(self._from_the_begin())
        except Refused as refused:
            self.refuse(refused)

    def __await__(self) -> Generator[Any, None, Any]:
        """Return the reply; raises grpc.aio.AioRpcError, and CancelledError when it was cancelled here."""
        if self._task is None and self.error is None:
            attempt = self.last
            assert attempt is not None
            try:
                return (yield from attempt.inner.__await__())
            except grpc.aio.AioRpcError:
                if self._task is None and self.error is None:
                    raise
            except asyncio.CancelledError:
                if not _given_up(attempt):
                    raise
        if self._task is not None:
            yield from self._task.__await__()
        if self._cancelled:
            raise asyncio.CancelledError
        if self.error is not None:
            raise self.error
        return self._reply

    def attempt_over(self, attempt: Attempt, now: float) -> None:
        """Decide what follows; while a task goes on with the call, it does."""
        if self._task is not None:
            if self.attempts > 1:
                self.note_attempt(attempt, now)
            return
        if attempt.code == outcome.OK or attempt.cancelled():
            self.finish(attempt.code)
            return
        wait = self.wait_before_next(attempt, now)
        if wait is None:
            self.error = attempt.error()
            self.finish(attempt.code, attempt.details)
            return
        self.note_attempt(attempt, now)
        self._task = self.spawn(self._go_on(wait, attempt))

    async def _from_the_begin(self) -> None:
        """Wait until the service is known, and make the call."""
        with self._ending():
            await self.method.wait_known(self)
            self.admit()
            if self.plan.hedge is not None:
                await self._hedged(self.plan.hedge)
            else:
                await self._attempts(0.0, None)

    async def _go_on(self, wait: float, before: Attempt) -> None:
        """Make more attempts, the first of them in `wait` seconds."""
        with self._ending():
            await self._attempts(wait, before)

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """See to it that the call ends, whatever ends the task that goes on with it."""
        try:
            yield
        except Refused as refused:
            self.refuse(refused)
        except asyncio.CancelledError:
            self._cancelled = True
            self.finish(outcome.CANCELLED)
            raise
        except Exception as error:
            # A defect, of a serializer for example: as with grpc.aio it is raised to who awaits.
            self.finish(outcome.INTERNAL, str(error))
            raise

    async def _attempts(self, wait: float, before: Attempt | None) -> None:
        """Make attempts until one is the answer."""
        while True:
            if wait:
                await asyncio.sleep(wait)
            try:
                attempt = self.next_attempt(self._request, again=wait > 0)
            except Refused:
                if before is None:
                    raise
                self._failed(before)  # that there is no other instance says less than what the last one said
                return
            try:
                self._reply = await attempt.inner
            except grpc.aio.AioRpcError:
                pass
            except asyncio.CancelledError:
                if not _given_up(attempt):
                    raise
            else:
                self.finish(outcome.OK)
                return
            found = self.wait_before_next(attempt, self.method.client.now())
            if found is None:
                self._failed(attempt)
                return
            before, wait = attempt, found

    async def _hedged(self, hedge: HedgeOptions) -> None:
        """Make attempts beside one another, each when those before take long, until one succeeds or all have failed."""
        running: dict[asyncio.Future[Any], Attempt] = {}
        failed: Attempt | None = None
        try:
            while True:
                if not running or (self.attempts < hedge.attempts and self._may_hedge()):
                    try:
                        attempt = self.next_attempt(self._request)
                        running[asyncio.ensure_future(attempt.inner)] = attempt
                    except Refused:
                        if failed is None and not running:
                            raise
                if not running:
                    break
                more = self.attempts < min(hedge.attempts, len(self.plan.targets.willing))
                done, _ = await asyncio.wait(
                    running, timeout=hedge.delay_seconds if more else None, return_when=asyncio.FIRST_COMPLETED
                )
                for one in done:
                    failed = running.pop(one)
                    if not one.cancelled() and one.exception() is None:
                        self.last, self._reply = failed, one.result()
                        self.finish(outcome.OK)
                        return
                if failed is not None and not running and not (more and self._worth_another(failed)):
                    break
        finally:
            for one, attempt in running.items():
                attempt.inner.cancel()
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        assert failed is not None
        self._failed(failed)

    def _worth_another(self, failed: Attempt) -> bool:
        """Tell whether another attempt may do better than one that failed."""
        retry = self.plan.retry
        return failed.failure is not None or failed.code in (retry.codes if retry is not None else _UNAVAILABLE)

    def _may_hedge(self) -> bool:
        """Tell whether another attempt beside those under way is within the budget."""
        budget = self.upstream.budget
        return not self.attempts or budget is None or budget.withdraw(self.method.client.now())

    def _failed(self, attempt: Attempt) -> None:
        """End the call with how an attempt ended."""
        self.last = attempt
        error = attempt.error()
        if error is None:
            inner = attempt.inner
            error = grpc.aio.AioRpcError(
                at_once(inner.code()) or grpc.StatusCode.UNKNOWN,
                at_once(inner.initial_metadata()) or grpc.aio.Metadata(),
                at_once(inner.trailing_metadata()) or grpc.aio.Metadata(),
                details=at_once(inner.details()),
            )
        self.error = error
        self.finish(attempt.code, attempt.details)

    # What grpc.aio's calls have beside.

    def cancel(self) -> bool:
        """Cancel the call; tells whether there was something to cancel."""
        if self.finished:
            return False
        self._cancelled = True
        if self._task is not None:
            return self._task.cancel()
        assert self.last is not None
        return bool(self.last.inner.cancel())

    def cancelled(self) -> bool:
        """Tell whether it was cancelled here."""
        return self._cancelled or (self._task is None and self.last is not None and self.last.cancelled())

    def done(self) -> bool:
        """Tell whether it has ended."""
        return self.finished

    def time_remaining(self) -> float | None:
        """Return the seconds until its deadline."""
        return self.time_left(self.method.client.now())

    async def initial_metadata(self) -> Any:
        """Return what the answer began with."""
        inner = await self._last()
        return grpc.aio.Metadata() if inner is None else await inner.initial_metadata()

    async def trailing_metadata(self) -> Any:
        """Return what the answer ended with."""
        inner = await self._last()
        if self.error is not None:
            return self.error.trailing_metadata()
        return grpc.aio.Metadata() if inner is None else await inner.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        """Return how it ended."""
        inner = await self._last()
        if self.error is not None:
            return self.error.code()
        code: grpc.StatusCode = grpc.StatusCode.CANCELLED if inner is None else await inner.code()
        return code

    async def details(self) -> str:
        """Return what was said of that."""
        inner = await self._last()
        if self.error is not None:
            return self.error.details() or ""
        details: str = "" if inner is None else await inner.details()
        return details

    async def debug_error_string(self) -> str:
        """Return what grpc core knows of an error."""
        inner = await self._last()
        text: str = "" if inner is None else await inner.debug_error_string()
        return text

    async def wait_for_connection(self) -> None:
        """Wait until it is on its way, or has failed."""
        inner = await self._last()
        if self.error is not None:
            raise self.error
        if inner is not None:
            await inner.wait_for_connection()

    async def _last(self) -> Any:
        """Wait for the end, and return the attempt of grpc that it came with; None where there is none."""
        if self._task is None and self.last is not None and self.error is None:
            await self.last.inner.code()
        if self._task is not None and not self._task.done():
            await asyncio.wait((self._task,))
        return None if self.last is None else self.last.inner
