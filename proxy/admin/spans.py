"""A span of the edge for each call, made from its record, off the path of calls.

Written out by hand, as the access log's lines are: at full load it is done tens of thousands of times a second.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence

import mesh
from mesh import tracing
from mesh.api.logsink.v1 import TextColumn
from mesh.api.tracesink.v1 import SpanBatch
from mesh.edge import CONTROL_SERVICE, EDGE_SERVICE
from mesh.resilience.breaker import state_of
from mesh.resilience.outcome import code_name, has_server_failed
from mesh.telemetry.record import column
from mesh.telemetry.sampling import Sampler, has_failed
from mesh.telemetry.spans import ERROR, MAX_MESSAGE, SERVER, UNSET, SpanEvent, events_text
from proxy.call.call import Call
from proxy.call.reason import Reason
from proxy.routing.table import MethodRoute

SCOPE = "mesh.edge"
# Characters of a name that a client made up.
MAX_NAME = 256

_MESH = frozenset((EDGE_SERVICE, CONTROL_SERVICE))

# Gets calls with when they ended.
Ended = Sequence[tuple[int, Call]]


def kept(records: Ended, sampler: Sampler) -> list[tuple[int, Call]]:
    """Return the calls whose spans are kept: the sampled ones, and those that failed or were slow.

    Of calls to the mesh itself (its edges' health and reflection, its control services) only those that failed, and
    those that came with a trace: nobody looks for `mesh traces` among the traces.
    """
    return [(ended_ns, call) for ended_ns, call in records if _keeps(call, sampler)]


def _keeps(call: Call, sampler: Sampler) -> bool:
    traceparent = getattr(call, "traceparent", b"")  # not set where the call ended before it was looked at
    if not traceparent:
        return False
    failed = has_failed(call.status)
    if call.route is not None and call.route.service in _MESH and not call.traceparent_in:
        return failed
    duration = (call.ended_at - call.started_at) * 1e9
    return sampler.keeps(sampled=tracing.is_sampled(traceparent), failed=failed, duration_ns=duration)


def span_batch(records: Ended, instance_id: str, release_at: Callable[[float], int]) -> SpanBatch:
    """Return a span for each call, which was traced; `release_at` knows the release of a time of the calls' clock."""
    parents = [call.traceparent.decode() for _, call in records]
    names = column([_name(call.method) for _, call in records])
    return SpanBatch(
        start_ns=[ended_ns - round((call.ended_at - call.started_at) * 1e9) for ended_ns, call in records],
        end_ns=[ended_ns for ended_ns, _ in records],
        trace_id=TextColumn(values=[one[3:35] for one in parents]),
        span_id=TextColumn(values=[one[36:52] for one in parents]),
        parent_span_id=TextColumn(values=[call.traceparent_in[36:52].decode() for _, call in records]),
        name=names,
        kind=[SERVER] * len(records),
        status=[ERROR if has_server_failed(call.status) else UNSET for _, call in records],
        status_message=column([call.message[:MAX_MESSAGE] for _, call in records]),
        service=TextColumn(values=(EDGE_SERVICE,)),
        instance=TextColumn(values=(instance_id,)),
        version=TextColumn(values=(mesh.__version__,)),
        scope=TextColumn(values=(SCOPE,)),
        correlation_id=TextColumn(values=[call.correlation_id.decode() for _, call in records]),
        rpc_method=names,
        rpc_status_code=column([code_name(call.status) for _, call in records]),
        peer_service=column([call.route.service if call.route is not None else "" for _, call in records]),
        flags=[int(tracing.is_sampled(call.traceparent)) for _, call in records],
        attributes=TextColumn(values=[attributes(call, release_at(call.started_at)) for _, call in records]),
        events=column([_attempts(ended_ns, call) if call.attempts > 1 else "" for ended_ns, call in records]),
    )


def attributes(call: Call, release: int) -> str:
    """Return what the edge knows of a call, as a JSON object; times in milliseconds."""
    text = (
        f'{{"rpc.system.name":"grpc","network.peer.address":{_quoted(call.peer)},"mesh.listener":"{call.listener}"'
        f',"mesh.attempts":{call.attempts},"mesh.bytes_in":{call.bytes_in},"mesh.bytes_out":{call.bytes_out}'
        f',"mesh.messages_in":{call.messages_in},"mesh.messages_out":{call.messages_out},"mesh.release":{release}'
    )
    if call.route is not None:
        text += _route(call.route)
    if call.endpoint is not None:
        text += (
            f',"mesh.instance":{_quoted(call.endpoint.instance_id)},"server.address":{_quoted(call.endpoint.address)}'
        )
    if call.permit:
        text += f',"mesh.breaker":"{_STATES[state_of(call.permit)]}"'
    elif call.reason is Reason.BREAKER_OPEN:
        text += ',"mesh.breaker":"open"'
    if call.response_at and call.request_ended_at:
        text += f',"mesh.upstream_ms":{max(0.0, call.response_at - call.request_ended_at) * 1000:.3f}'
    if call.deadline is not None:
        text += f',"mesh.deadline_ms":{(call.deadline - call.started_at) * 1000:.3f}'
    if call.reason is not None:
        text += f',"mesh.reason":"{call.reason.text}"'
    if call.status:
        text += f',"error.type":"{code_name(call.status)}"'
    return text + "}"


# By the numbers of `BreakerState`.
_STATES = ("closed", "half-open", "open")


def _route(route: MethodRoute) -> str:
    """Return which way a call took, and why; the same for all calls of a route."""
    rule = route.rule
    if rule is None:
        return _registered(route.route.grpc_service, route.is_local)
    return _configured(rule.where, rule.name, rule.said, tuple(f"{one}/{name}" for one, name in rule.methods))


@functools.lru_cache(4096)
def _registered(grpc_service: str, is_local: bool) -> str:  # noqa: FBT001 - a key
    why = "the edge answers it itself" if is_local else f"the registry: it declares {grpc_service}"
    return f',"mesh.route":"","mesh.route.match":{json.dumps(why)}'


@functools.lru_cache(4096)
def _configured(where: str, name: str, said: str, methods: tuple[str, ...]) -> str:
    said_of_methods = f"the method is {' or '.join(methods)}" if methods else ""
    why = " and ".join(filter(None, (said_of_methods, said))) or "all calls of its destinations"
    named = f',"mesh.route.name":{json.dumps(name)}' if name else ""
    return f',"mesh.route":{json.dumps(where)}{named},"mesh.route.match":{json.dumps(why)}'


def _attempts(ended_ns: int, call: Call) -> str:
    """Return an event for each attempt that failed, where there was more than one."""
    return events_text(
        [
            SpanEvent(
                ended_ns - round((call.ended_at - at) * 1e9),
                "attempt failed",
                {
                    "mesh.attempt": number,
                    "mesh.instance": endpoint.instance_id,
                    "server.address": endpoint.address,
                    "rpc.status_code": code_name(status),
                    **({"mesh.reason": reason.text} if reason is not None else {}),
                    **({"message": message} if message else {}),
                },
            )
            for number, (at, endpoint, status, message, reason) in enumerate(call.failed, 1)
        ]
    )


_quoted = functools.lru_cache(4096)(json.dumps)


@functools.lru_cache(4096)
def _name(path: bytes) -> str:
    return path[1 : MAX_NAME + 1].decode("ascii", "backslashreplace")
