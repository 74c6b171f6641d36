"""What messages carry of the conversation and the trace that they belong to."""

from __future__ import annotations

import contextlib
import contextvars
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar, overload

from mesh import correlation
from mesh.context import CallContext, current
from mesh.messaging.carrier import Headers, Writable, read, write

CORRELATION = correlation.HEADER.decode()
TRACEPARENT = correlation.TRACEPARENT.decode()
TRACESTATE = "tracestate"
BAGGAGE = "baggage"
_NAMES = frozenset({CORRELATION, TRACEPARENT, TRACESTATE, BAGGAGE})

# W3C: whoever passes these on takes at least so much of them.
MAX_TRACESTATE = 512
MAX_BAGGAGE = 8192
_PRINTABLE = re.compile(r"[ -~]+").fullmatch
_SAMPLED = 1

T = TypeVar("T", bound=Writable)

# What the message that is being worked on carried beside its context; it goes on with what is sent meanwhile.
_carried: contextvars.ContextVar[tuple[str, str]] = contextvars.ContextVar("mesh_message_carried", default=("", ""))


@dataclass(frozen=True, slots=True)
class Incoming:
    """What a message says of where it comes from; what it does not say, or says malformed, is empty."""

    correlation_id: str = ""
    # Of the span that made the message; both or neither.
    trace_id: str = ""
    span_id: str = ""
    sampled: bool = True
    # As they came, for whoever goes on in the same trace.
    tracestate: str = ""
    baggage: str = ""


def extract(headers: Headers | None) -> Incoming:
    """Return what the headers of a message say: a mapping or pairs, names in any case, text or bytes.

    Never raises: headers come from outside, and a message with strange ones is still a message.
    """
    found = read(headers, _NAMES)
    ids = [value for value in found.get(CORRELATION, ()) if correlation.well_formed(value.encode())]
    parents = found.get(TRACEPARENT, [])
    # Two of them: nobody knows which one is meant, and W3C has both ignored.
    parent = parents[0].encode() if len(parents) == 1 else b""
    trace_id = correlation.trace_id(parent)
    baggage = _bounded(found.get(BAGGAGE, []), MAX_BAGGAGE)
    if trace_id is None:
        return Incoming(ids[0] if ids else "", baggage=baggage)
    return Incoming(
        correlation_id=ids[0] if ids else "",
        trace_id=trace_id.decode(),
        span_id=parent[36:52].decode(),
        sampled=bool(int(parent[53:55], 16) & _SAMPLED),
        tracestate=_bounded(found.get(TRACESTATE, []), MAX_TRACESTATE),
        baggage=baggage,
    )


@overload
def inject(headers: None = None, context: CallContext | None = None) -> dict[str, str]: ...
@overload
def inject(headers: T, context: CallContext | None = None) -> T: ...
def inject(headers: T | None = None, context: CallContext | None = None) -> T | dict[str, str]:
    """Put the present conversation and trace on a message that is about to be sent; returns its headers.

    `headers` is changed in place; None is a new dict. A trace from somewhere else is replaced. A correlation id that is
    there already, and well formed, stays: the message is of that conversation. Outside of any call the message begins a
    conversation of its own.
    """
    context = context or current()
    there = extract(headers)
    if context is not None:
        values = {
            CORRELATION: there.correlation_id or context.correlation_id,
            TRACEPARENT: f"00-{context.trace_id}-{context.span_id}-{'01' if context.sampled else '00'}",
        }
    else:
        values = {CORRELATION: there.correlation_id or correlation.new_id().decode()}
    tracestate, baggage = _carried.get()
    if tracestate and context is not None:
        values[TRACESTATE] = tracestate
    if baggage and not there.baggage:
        values[BAGGAGE] = baggage
    into: T | dict[str, str] = {} if headers is None else headers
    write(into, values)
    return into


@contextlib.contextmanager
def carrying(tracestate: str, baggage: str) -> Iterator[None]:
    """Pass these on with every message that is sent in the block."""
    token = _carried.set((tracestate, baggage))
    try:
        yield
    finally:
        _carried.reset(token)


def _bounded(values: list[str], longest: int) -> str:
    """Return a list header in one piece; empty when it is too long or has what no header may have."""
    text = ",".join(values)
    return text if len(text) <= longest and _PRINTABLE(text) else ""
