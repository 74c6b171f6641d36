"""Who gets the spans of sending and of working on messages."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import TypeAlias

from mesh.telemetry.spans import SpanRecord

# Takes a span that has ended; its service, instance and version are still to be filled in. Must not wait nor raise.
Recorder: TypeAlias = Callable[[SpanRecord], None]


def _nobody(span: SpanRecord) -> None:
    """Where no mesh was joined."""


_recorder: contextvars.ContextVar[Recorder] = contextvars.ContextVar("mesh_message_recorder", default=_nobody)


def record(span: SpanRecord) -> None:
    """Give an ended span to whoever records in the present context."""
    _recorder.get()(span)


def set_recorder(recorder: Recorder) -> contextvars.Token[Recorder]:
    """Give the spans of this context, and of tasks started in it from now on, to `recorder`."""
    return _recorder.set(recorder)


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Give the spans of the block to `recorder`: `mesh.join` does this by itself."""
    token = set_recorder(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)
