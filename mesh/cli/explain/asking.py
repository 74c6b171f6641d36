"""What `mesh explain` asks the trace sink."""

from __future__ import annotations

from typing import Any

import grpc

from mesh.api.logsink.v1 import LogRecord
from mesh.api.tracesink.v1 import GetCorrelationRequest, GetTraceRequest, Span, TraceSinkStub
from mesh.cli.explain.culprit import culprit
from mesh.cli.explain.hops import hops, nested
from mesh.cli.explain.page import Story
from mesh.discovery.channel import control_channel, mesh_error
from mesh.discovery.errors import RefusedError
from mesh.discovery.targets import Targets
from mesh.errors import MeshError

LIMIT = 5_000
CALL_SECONDS = 30.0


async def ask(control: str, given: str, *, is_trace: bool) -> Story:
    """Return what is known of a correlation id, or of all that belongs to a trace.

    Raises:
        MeshError: nothing is known of it, or no sink answers.

    """
    targets = Targets(control)
    for _ in range(len(targets)):
        try:
            async with control_channel(targets.current) as channel:
                return await _ask(TraceSinkStub(channel), given, is_trace=is_trace)
        except grpc.aio.AioRpcError as error:
            failure = _error(error, targets.current)
            if isinstance(failure, RefusedError):
                raise failure from error
            targets.move_on()
    raise failure


async def _ask(stub: Any, given: str, *, is_trace: bool) -> Story:
    spans, records, truncated = await _correlated(stub, given)
    name = given
    if is_trace and not spans:
        traced = await _traced(stub, given.lower())
        # Its correlation id leads to the log lines, and to what else belongs to the conversation.
        name = next((span.correlation_id for span in traced if span.correlation_id), given)
        if traced and name != given:
            spans, records, truncated = await _correlated(stub, name)
        spans = spans or traced
    if not spans and not records:
        raise MeshError(
            f"nothing is known of {given}: it is misspelt or too old, or its calls came through no edge "
            "with --telemetry on, or it is a second or so too early to ask"
        )
    spans, found = nested(spans), hops(spans, records)
    return Story(name, spans, records, found, culprit(spans, records, found), truncated)


async def _correlated(stub: Any, correlation_id: str) -> tuple[list[Span], list[LogRecord], bool]:
    request = GetCorrelationRequest(correlation_id=correlation_id, limit=LIMIT)
    reply = await stub.GetCorrelation(request, timeout=CALL_SECONDS)
    spans = [item.span for item in reply.items if item.HasField("span")]
    records = [item.record for item in reply.items if item.HasField("record")]
    return spans, records, reply.truncated


async def _traced(stub: Any, trace_id: str) -> list[Span]:
    try:
        return list((await stub.GetTrace(GetTraceRequest(trace_id=trace_id), timeout=CALL_SECONDS)).spans)
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
            return []
        raise


def _error(error: grpc.aio.AioRpcError, target: str) -> MeshError:
    codes = grpc.StatusCode
    if error.code() in (codes.INVALID_ARGUMENT, codes.DEADLINE_EXCEEDED, codes.RESOURCE_EXHAUSTED):
        return RefusedError(error.details() or error.code().name)
    return mesh_error(error, target)
