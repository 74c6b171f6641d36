"""What happens around every handler: the call's context, its numbers and span, and what its caller hears of a failure.

An interceptor of grpc.aio for all four kinds of call, as an interceptor of a server of any make. Why not the one of
opentelemetry-instrumentation-grpc: docs/decisions.md.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc

from mesh import correlation, tracing
from mesh.context import CallContext, enter
from mesh.resilience import outcome
from mesh.sdk import otel
from mesh.sdk.metrics import CallMetrics, MethodStats
from mesh.sdk.spans import SpanLog
from mesh.telemetry.spans import SERVER
from mesh.telemetry.stacks import WorkUnderWay, names_calls

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# Asked by probes and tools every few seconds; nobody's business.
QUIET = ("/grpc.health.", "/grpc.reflection.")
# To who called: it is of no use to try again what has failed further on (A6), or every hop would multiply the load.
NO_RETRY = ("grpc-retry-pushback-ms", "-1")

# Deadlines come in few digits, rounded up: the caller's own ends the call so much earlier.
ROUNDED = 0.1

_log = logging.getLogger("mesh.server")


class Serving(grpc.aio.ServerInterceptor):
    """Put it first in the `interceptors` of a server."""

    def __init__(self, metrics: CallMetrics, spans: SpanLog) -> None:
        self._metrics = metrics
        self._spans = spans
        # By method: what the server has, and what stands in its place.
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Return the handler of a call with all that happens around it."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(QUIET):
            return handler
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            # Made once for a method, unless an interceptor behind this one makes handlers as it goes.
            known = self._wrapped[method] = (handler, self._wrap(method.lstrip("/"), handler))
        return known[1]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        sides = (handler.request_streaming, handler.response_streaming)
        kind = "_".join("stream" if streams else "unary" for streams in sides)
        inner: Callable[..., Any] = getattr(handler, kind)
        stats = self._metrics.of(method)

        # Each call has a task of its own, so what is entered need not be left.
        async def one(request: Any, context: Context) -> Any:
            served = Served(method, context, stats, self._spans)
            enter(served.context)
            otel.served(served.context)
            try:
                return await inner(request, context)
            except BaseException as error:
                await served.failed(error)
                raise
            finally:
                served.end()

        async def many(request: Any, context: Context) -> AsyncIterator[Any]:
            served = Served(method, context, stats, self._spans)
            # A client that leaves while a reply is sent leaves the generator where it is: this is told in any case.
            context.add_done_callback(served.abandoned)  # type: ignore[arg-type] # the stubs have a class there
            enter(served.context)
            otel.served(served.context)
            replies = inner(request, context)
            try:
                async for reply in replies:
                    yield reply
            except BaseException as error:
                await served.failed(error)
                raise
            finally:
                served.end()
                await replies.aclose()

        for around in (one, many):
            names_calls(around, _working)
        generates = inspect.isasyncgenfunction(inner)
        make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            many if generates else one,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class Served:
    """One call that is served."""

    __slots__ = (
        "_began",
        "_began_ns",
        "_code",
        "_context",
        "_ended",
        "_method",
        "_parent",
        "_spans",
        "_stats",
        "context",
    )

    def __init__(self, method: str, context: Context, stats: MethodStats, spans: SpanLog) -> None:
        self._method = method
        self._context = context
        self._stats = stats
        self._spans = spans
        self._began = now = time.monotonic()
        self._began_ns = time.time_ns()
        self._code: int | None = None
        self._ended = False
        stats.in_flight += 1
        self.context, self._parent = incoming(context.invocation_metadata(), context.time_remaining(), now, spans)

    @property
    def method(self) -> str:
        return self._method

    async def failed(self, error: BaseException) -> None:
        """Tell the caller what it may know of an error, and the log all of it."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._cancelled()
        elif isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
            pass  # its status is set; or the process ends
        elif isinstance(error, grpc.aio.AioRpcError):
            # What a call of the handler met, and the handler did not mind: the caller shall know where it went wrong.
            _log.warning("%s passes on %s: %s%s", self._method, error.code().name, error.details(), self._under())
            await self._answer(error.code(), error.details() or "", error.trailing_metadata())
        else:
            _log.error("%s failed%s", self._method, self._under(), exc_info=error)
            said = f"{self._method} failed; the log of the service tells why{self._under()}"
            await self._answer(grpc.StatusCode.INTERNAL, said)

    def abandoned(self, _context: Any) -> None:
        """End the call where its handler has not come to an end."""
        if not self._ended:
            self._cancelled()
            self.end()

    def end(self) -> None:
        """Count the call; only the first time counts."""
        if self._ended:
            return
        self._ended = True
        seconds = time.monotonic() - self._began
        code = self._code
        if code is None:
            said: Any = self._context.code()  # what a handler has set, or a number
            code = int(said.value[0] if isinstance(said, grpc.StatusCode) else said or outcome.OK)
        self._stats.ended(code, seconds)
        about = self.context
        if self._spans.keeps(sampled=about.sampled, code=code, seconds=seconds):
            self._spans.call(
                SERVER,
                about,
                about.span_id,
                self._parent,
                self._method,
                self._began_ns,
                seconds,
                code,
                message=self._context.details() if code else "",
                attributes=about.attributes,
            )

    async def _answer(self, code: grpc.StatusCode, details: str, trailers: Any = None) -> None:
        if self._context.cancelled() or self._context.done():
            return
        kept = [pair for pair in trailers or () if pair[0] == "mesh-reason"]
        pushback = [NO_RETRY] if code is not grpc.StatusCode.INTERNAL else []
        await self._context.abort(code, details, tuple(kept + pushback))

    def _cancelled(self) -> None:
        deadline = self.context.deadline
        late = deadline is not None and time.monotonic() >= deadline - ROUNDED
        self._code = outcome.DEADLINE_EXCEEDED if late else outcome.CANCELLED

    def _under(self) -> str:
        return f" (correlation id {self.context.correlation_id})"


def _working(names: Mapping[str, Any]) -> WorkUnderWay | None:
    """Return the call that a frame of `one` or `many` works on."""
    served = names.get("served")
    return WorkUnderWay(f"/{served.method}", served.context) if isinstance(served, Served) else None


def incoming(metadata: Any, left: float | None, now: float, spans: SpanLog) -> tuple[CallContext, str]:
    """Return the context of a call that came with such metadata, and the span that made it; "" is none."""
    given = parent = None
    for name, value in metadata or ():
        if name == "x-correlation-id":
            given = value.encode("ascii", "replace")
        elif name == "traceparent":
            parent = tracing.parse(value.encode("ascii", "replace"))
    if parent is not None:
        trace_id, caller, sampled = parent
    else:
        trace_id, caller = tracing.new_trace_id(), b""
        sampled = spans.begins(trace_id)
    if given is None or not correlation.well_formed(given):
        # Both names lead to the same call.
        given = trace_id
    deadline = None if left is None else now + left
    context = CallContext(
        given.decode(), trace_id.decode(), tracing.new_span_id().decode(), sampled=sampled, deadline=deadline
    )
    return context, caller.decode()
