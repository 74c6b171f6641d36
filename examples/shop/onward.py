"""How one service of the shop calls the next: through the mesh, with the ids of the conversation and the deadline."""

from __future__ import annotations

from typing import Any, TypedDict

import grpc

# The conversation's id, and the trace as W3C has it.
KEPT = ("x-correlation-id", "traceparent", "tracestate")


class Onward(TypedDict):
    """Arguments of a call made on behalf of another."""

    metadata: tuple[tuple[str, str | bytes], ...]
    timeout: float | None


def onward(context: grpc.aio.ServicerContext[Any, Any]) -> Onward:
    """Return what a call onward carries: this is all that a service does for the mesh to tell the whole story."""
    kept = tuple((key, value) for key, value in context.invocation_metadata() or () if key in KEPT)
    return {"metadata": kept, "timeout": context.time_remaining()}
