"""The call that the running code works for: what goes on with the calls, messages and log records that it causes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

# What is annotated beyond this is left out: a loop that annotates must not grow a span for ever.
MAX_ATTRIBUTES = 64


@dataclass(frozen=True, slots=True)
class CallContext:
    """Names and bounds of the work under way."""

    # The conversation: `mesh.correlation.well_formed`.
    correlation_id: str
    # W3C: 32 and 16 hexadecimal digits, lower case. The span is that of the work itself, the parent of what it causes.
    trace_id: str
    span_id: str
    sampled: bool = True
    # When the caller stops waiting, in the monotonic seconds of `mesh.clock.SystemClock`; None is never.
    deadline: float | None = None
    # What its code has said of it, see `annotate`; one for all contexts that are made of this one.
    attributes: dict[str, str | float] = field(default_factory=dict, compare=False, repr=False)


_current: ContextVar[CallContext | None] = ContextVar("mesh_call", default=None)


def current() -> CallContext | None:
    """Return the context of the work under way, None outside of any.

    Tasks have that of whoever made them, and so have threads of `asyncio.to_thread`; other threads need
    `contextvars.copy_context`.
    """
    return _current.get()


def annotate(name: str, value: str | float) -> None:
    """Say something of the work under way, such as "order.id": its span has it, and log records from now on.

    Outside of any work it does nothing. A name that is said again has its last value.
    """
    context = _current.get()
    if context is not None and (len(context.attributes) < MAX_ATTRIBUTES or name in context.attributes):
        context.attributes[name] = value


def enter(context: CallContext) -> None:
    """Work for `context` for as long as the running task lasts: for a task that does nothing else."""
    _current.set(context)


@contextmanager
def entered(context: CallContext) -> Iterator[CallContext]:
    """Work for `context` until the end of the block, and then again for whatever was there before."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


@contextmanager
def without_deadline() -> Iterator[None]:
    """Let calls of the block take their own time: for what must be done although nobody waits for it any longer."""
    context = _current.get()
    token = _current.set(None if context is None else dataclasses.replace(context, deadline=None))
    try:
        yield
    finally:
        _current.reset(token)
