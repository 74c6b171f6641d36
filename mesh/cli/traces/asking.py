"""How these commands ask the trace sink."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc

from mesh.api.tracesink.v1 import (
    FindTracesRequest,
    FindTracesResponse,
    GetTraceRequest,
    GetTraceResponse,
    TraceFilter,
    TraceSinkStub,
    TraceSummary,
)
from mesh.cli.logs.asking import DEFAULT_SINCE_NS, parse_time, refused
from mesh.discovery.channel import control_channel, mesh_error
from mesh.discovery.errors import RefusedError
from mesh.discovery.targets import Targets
from mesh.errors import MeshError, UsageError

T = TypeVar("T")

PAGE = 1_000
CALL_SECONDS = 40.0
# Of a conversation that are shown.
MAX_TRACES = 20

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


def make_filter(
    *,
    now_ns: int,
    services: Sequence[str] = (),
    instances: Sequence[str] = (),
    method: str = "",
    min_duration: str = "",
    max_duration: str = "",
    errors: bool = False,
    codes: Sequence[str] = (),
    attributes: Sequence[str] = (),
    correlation_id: str = "",
    since: str = "",
    until: str = "",
) -> TraceFilter:
    """Return the filter that options mean.

    Raises:
        UsageError: one of them makes no sense.

    """
    pairs = {}
    for one in attributes:
        key, _, value = one.partition("=")
        if not key:
            raise UsageError(f"--attr: '{one}' is not KEY=VALUE")
        pairs[key] = value
    filter_ = TraceFilter(
        correlation_id=correlation_id,
        services=services,
        instances=instances,
        method=method,
        min_duration_ns=length(min_duration, "--min-duration") if min_duration else 0,
        max_duration_ns=length(max_duration, "--max-duration") if max_duration else 0,
        errors=errors,
        codes=codes,
        attributes=pairs,
    )
    if filter_.max_duration_ns and filter_.max_duration_ns < filter_.min_duration_ns:
        raise UsageError("--max-duration must not be shorter than --min-duration")
    if since or until or not correlation_id:
        filter_.start_ns, filter_.end_ns = window(since, until, now_ns)
    return filter_


def window(since: str, until: str, now_ns: int) -> tuple[int, int]:
    """Return the begin and the end of the time that options mean: the last hour, and clocks that are ahead."""
    end = parse_time(until, "--until", now_ns) if until else now_ns + DEFAULT_SINCE_NS
    start = parse_time(since, "--since", now_ns) if since else min(now_ns, end) - DEFAULT_SINCE_NS
    if start >= end:
        raise UsageError("--since must be before --until")
    return start, end


def length(text: str, option: str) -> int:
    """Return a duration in nanoseconds."""
    match = _DURATION.fullmatch(text.strip())
    found = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    if not 0 < found < 2**63:
        raise UsageError(f"{option}: '{text}' is no duration: write 250ms, 1.5s or 2m")
    return found


async def asked(control: str, ask: Callable[[Any], Awaitable[T]]) -> T:
    """Return what `ask` makes of a trace sink's stub, of the first control process that serves.

    Raises:
        MeshError: it refuses, or none answers; one sentence says why.

    """
    targets = Targets(control)
    for attempt in range(1, len(targets) + 1):
        async with control_channel(targets.current) as channel:
            try:
                return await ask(TraceSinkStub(channel))
            except grpc.aio.AioRpcError as error:
                failure = _error(error, targets.current)
                if isinstance(failure, RefusedError | UsageError) or attempt == len(targets):
                    raise failure from error
        targets.move_on()
    raise AssertionError


async def found(stub: Any, filter_: TraceFilter, limit: int) -> tuple[list[TraceSummary], bool]:
    """Return the newest traces, newest first, and whether there are more."""
    traces: list[TraceSummary] = []
    cursor = ""
    while len(traces) < limit:
        request = FindTracesRequest(filter=filter_, limit=min(PAGE, limit - len(traces)), cursor=cursor)
        page: FindTracesResponse = await stub.FindTraces(request, timeout=CALL_SECONDS)
        traces += page.traces
        cursor = page.cursor
        if not cursor:
            break
    return traces, bool(cursor)


async def traces_of(stub: Any, id_: str) -> tuple[list[GetTraceResponse], bool]:
    """Return the traces that an id means, a trace's or a conversation's, oldest first, and whether there are more."""
    if _TRACE_ID.fullmatch(id_):
        try:
            return [await stub.GetTrace(GetTraceRequest(trace_id=id_), timeout=CALL_SECONDS)], False
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
    listed, more = await found(stub, TraceFilter(correlation_id=id_), MAX_TRACES)
    requests = [GetTraceRequest(trace_id=trace.trace_id) for trace in sorted(listed, key=lambda one: one.start_ns)]
    return [await stub.GetTrace(request, timeout=CALL_SECONDS) for request in requests], more


def _error(error: grpc.aio.AioRpcError, target: str) -> MeshError:
    if (wrong := refused(error)) is not None:
        return wrong
    if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return RefusedError(error.details() or "the search takes too long: narrow its time range with --since")
    return mesh_error(error, target)
