"""Sending a message and working on one, as parts of a conversation."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator

from mesh import correlation, tracing
from mesh.clock import Clock, SystemClock
from mesh.context import CallContext, current, entered
from mesh.messaging.carrier import Headers, Writable
from mesh.messaging.propagation import carrying, extract, inject
from mesh.messaging.spans import record
from mesh.telemetry.spans import CONSUMER, ERROR, PRODUCER, SAMPLED, SpanLink, SpanRecord

_SCOPE = "mesh.messaging"
_MAX_ERROR = 300
_CLOCK = SystemClock()


@contextlib.contextmanager
def producing(
    headers: Writable, *, destination: str = "", system: str = "", clock: Clock = _CLOCK
) -> Iterator[SpanRecord]:
    """Send one message in the block, with `headers`, which are written here.

    The span is a part of the present call's trace, or the first one of a new trace; `destination` is the topic or the
    subject, `system` the kind of broker, such as "kafka". What the block raises goes on, and is the span's error.
    """
    outer = current()
    if outer is None:
        there = extract(headers).correlation_id
        outer = CallContext(there or correlation.new_id().decode(), tracing.new_trace_id().decode(), "")
    context = dataclasses.replace(outer, span_id=tracing.new_span_id().decode())
    inject(headers, context)
    # The message may be of another conversation than the call that sends it.
    conversation = extract(headers).correlation_id
    span = _span(PRODUCER, "send", dataclasses.replace(context, correlation_id=conversation), destination, system)
    span.parent_span_id = outer.span_id
    with _timed(span, clock):
        yield span


@contextlib.contextmanager
def consuming(
    headers: Headers | None,
    *,
    destination: str = "",
    system: str = "",
    parent: bool = False,
    clock: Clock = _CLOCK,
) -> Iterator[SpanRecord]:
    """Work on one message in the block: calls and messages made there belong to the message's conversation.

    The work is a trace of its own, whose first span *links* to the span that made the message: a message may wait for
    hours, be worked on several times, or be one of a batch. With `parent` it goes on in the producer's trace instead.
    A message without an id begins a conversation. What the block raises goes on, and is the span's error.
    """
    came = extract(headers)
    joins = parent and bool(came.trace_id)
    trace_id = came.trace_id if joins else tracing.new_trace_id().decode()
    context = CallContext(
        came.correlation_id or correlation.new_id().decode(), trace_id, tracing.new_span_id().decode(), came.sampled
    )
    span = _span(CONSUMER, "process", context, destination, system)
    if joins:
        span.parent_span_id, span.trace_state = came.span_id, came.tracestate
    elif came.trace_id:
        span.links = (SpanLink(came.trace_id, came.span_id, came.tracestate),)
    with entered(context), carrying(came.tracestate if joins else "", came.baggage), _timed(span, clock):
        try:
            yield span
        finally:
            if context.attributes:
                span.attributes = {**span.attributes, **context.attributes}


@contextlib.contextmanager
def _timed(span: SpanRecord, clock: Clock) -> Iterator[None]:
    span.start_ns = clock.wall_ns()
    began = clock.now()
    try:
        yield
    except BaseException as error:
        cancelled = isinstance(error, asyncio.CancelledError)
        span.status = ERROR
        span.status_message = "cancelled" if cancelled else f"{type(error).__name__}: {error}"[:_MAX_ERROR]
        span.attributes = {**span.attributes, "error.type": type(error).__qualname__}
        raise
    finally:
        # The wall clock may jump meanwhile.
        span.end_ns = span.start_ns + round((clock.now() - began) * 1e9)
        record(span)


def _span(kind: int, operation: str, context: CallContext, destination: str, system: str) -> SpanRecord:
    known = {"messaging.destination.name": destination, "messaging.system": system}
    return SpanRecord(
        trace_id=context.trace_id,
        span_id=context.span_id,
        name=f"{operation} {destination}".strip(),
        start_ns=0,
        end_ns=0,
        kind=kind,
        scope=_SCOPE,
        correlation_id=context.correlation_id,
        flags=SAMPLED if context.sampled else 0,
        attributes={
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            **{name: value for name, value in known.items() if value},
        },
    )
