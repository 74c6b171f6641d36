"""What the edges know of the calls of one correlation id, from their spans, else from their log records. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.api.logsink.v1 import LogRecord
from mesh.api.tracesink.v1 import Span
from mesh.edge import CONTROL_SERVICE, EDGE_SERVICE

ACCESS = "access"
ATTEMPT = "attempt failed"
OK, CANCELLED = "OK", "CANCELLED"
# Calls under way at a time that are looked at for the one that led to another.
MAX_AROUND = 50


@dataclass(frozen=True, slots=True)
class Hop:
    """One call through one edge. Times are milliseconds but `start_ns`; "" and None are unknown."""

    edge: str
    start_ns: int
    duration_ms: float
    method: str
    code: str
    message: str = ""
    # Why the edge answered itself, where it did.
    reason: str = ""
    listener: str = ""
    # Where in the configuration the route is, "" where the registry alone decides; None where it is not known.
    route: str | None = None
    route_name: str = ""
    # Why it was this route.
    matched: str = ""
    service: str = ""
    instance: str = ""
    address: str = ""
    attempts: int = 0
    # In words, one for each attempt that failed before the last one.
    failed: tuple[str, ...] = ()
    breaker: str = ""
    # What the call had left when it came to the edge; None where there was no deadline.
    deadline_ms: float | None = None
    upstream_ms: float | None = None
    # Of the configuration; 0 is none, None is not known.
    release: int | None = None
    trace_id: str = ""
    span_id: str = ""

    @property
    def has_failed(self) -> bool:
        return self.code not in ("", OK, CANCELLED)

    @property
    def end_ns(self) -> int:
        return self.start_ns + round(self.duration_ms * 1e6)

    @property
    def deadline_left_ms(self) -> float | None:
        """What was left when the call ended."""
        return None if self.deadline_ms is None else self.deadline_ms - self.duration_ms


def hops(spans: Iterable[Span], records: Iterable[LogRecord]) -> list[Hop]:
    """Return the calls through edges in the order of their begins, from spans, and from records where there is none."""
    found = [from_span(span) for span in spans if is_edge(span)]
    told = {(hop.trace_id, hop.span_id) for hop in found}
    found += [
        from_record(record)
        for record in records
        if is_access(record) and not (record.span_id and (record.trace_id, record.span_id) in told)
    ]
    # grpcurl asks for reflection before it calls, under the same id: that is not of the story.
    found = [hop for hop in found if hop.has_failed or hop.service not in (EDGE_SERVICE, CONTROL_SERVICE)] or found
    return sorted(found, key=lambda hop: (hop.start_ns, -hop.duration_ms))


def nested(spans: Sequence[Span]) -> list[Span]:
    """Return the spans, those of edges linked by their times where nothing else links them.

    A service that passes on the correlation id alone makes a trace of each call: such a call lies within the one
    that led to it.
    """
    parents: dict[int, str] = {}
    # Those that began before and may be under way still, the innermost last.
    around: list[Span] = []
    edges = [place for place, span in enumerate(spans) if is_edge(span)]
    for place in sorted(edges, key=lambda one: (spans[one].start_ns, -spans[one].end_ns)):
        span = spans[place]
        while around and around[-1].end_ns < span.start_ns:
            around.pop()
        if not span.parent_span_id:
            for one in around[:-MAX_AROUND:-1]:
                if one.end_ns >= span.end_ns and one.trace_id != span.trace_id:
                    parents[place] = one.span_id
                    break
        around.append(span)
    return [_below(span, parents[place]) if place in parents else span for place, span in enumerate(spans)]


def _below(span: Span, parent: str) -> Span:
    linked = Span()
    linked.CopyFrom(span)
    linked.parent_span_id = parent
    return linked


def alone_ms(hop: Hop, others: Iterable[Hop]) -> float:
    """Return for how much of its time no other call was under way within it."""
    total, reached = 0, hop.start_ns
    for one in sorted(others, key=lambda other: other.start_ns):
        if one is not hop and hop.start_ns <= one.start_ns and one.end_ns <= hop.end_ns:
            total += max(0, one.end_ns - max(reached, one.start_ns))
            reached = max(reached, one.end_ns)
    return hop.duration_ms - total / 1e6


def is_edge(span: Span) -> bool:
    """Tell whether an edge made the span."""
    return span.service == EDGE_SERVICE and "mesh.listener" in span.attributes


def is_access(record: LogRecord) -> bool:
    """Tell whether it is an edge's record of a call."""
    return record.service == EDGE_SERVICE and record.event_name == ACCESS


def from_span(span: Span) -> Hop:
    """Return what an edge's span says."""
    said = attributes(span.attributes)
    return Hop(
        edge=span.instance,
        start_ns=span.start_ns,
        duration_ms=(span.end_ns - span.start_ns) / 1e6,
        method=span.rpc_method or span.name,
        code=span.rpc_status_code,
        message=span.status_message,
        reason=_text(said.get("mesh.reason")),
        listener=_text(said.get("mesh.listener")),
        route=_text(said["mesh.route"]) if "mesh.route" in said else None,
        route_name=_text(said.get("mesh.route.name")),
        matched=_text(said.get("mesh.route.match")),
        service=span.peer_service,
        instance=_text(said.get("mesh.instance")),
        address=_text(said.get("server.address")),
        attempts=int(_number(said.get("mesh.attempts")) or 0),
        failed=tuple(_attempt(event) for event in events(span.events) if event.get("name") == ATTEMPT),
        breaker=_text(said.get("mesh.breaker")),
        deadline_ms=_number(said.get("mesh.deadline_ms")),
        upstream_ms=_number(said.get("mesh.upstream_ms")),
        release=int(_number(said.get("mesh.release")) or 0),
        trace_id=span.trace_id,
        span_id=span.span_id,
    )


def from_record(record: LogRecord) -> Hop:
    """Return what an edge's record of a call says: less than its span."""
    said = attributes(record.attributes)
    duration = _number(said.get("duration_ms")) or 0.0
    return Hop(
        edge=record.instance,
        start_ns=record.ts_ns - round(duration * 1e6),
        duration_ms=duration,
        method=_text(said.get("method")).lstrip("/"),
        code=_text(said.get("code")),
        message=_text(said.get("message")),
        reason=_text(said.get("reason")),
        listener=_text(said.get("listener")),
        service=_text(said.get("service")),
        instance=_text(said.get("instance")),
        address=_text(said.get("endpoint")),
        attempts=int(_number(said.get("attempts")) or 0),
        deadline_ms=_number(said.get("deadline_ms")),
        upstream_ms=_number(said.get("upstream_ms")),
        trace_id=record.trace_id,
        span_id=record.span_id,
    )


def attributes(text: str) -> Mapping[str, Any]:
    """Return a JSON object's members; none where it is none."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def events(text: str) -> list[Mapping[str, Any]]:
    """Return a span's events; what is no event is left out."""
    try:
        found = json.loads(text or "[]")
    except ValueError:
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def milliseconds(value: float) -> str:
    """Return a duration as people read it."""
    if value >= 1000:
        return f"{value / 1000:.3g} s"
    return f"{value:.3g} ms" if value >= 1 else f"{value * 1000:.3g} µs"


def _attempt(event: Mapping[str, Any]) -> str:
    said = event.get("attributes")
    said = said if isinstance(said, dict) else {}
    where = _text(said.get("mesh.instance")) or _text(said.get("server.address")) or "an endpoint"
    why = " ".join(filter(None, (_text(said.get("rpc.status_code")), _in_brackets(said.get("mesh.reason")))))
    message = _text(said.get("message"))
    return f"{where}: {why}{f', {message}' if message else ''}"


def _in_brackets(value: Any) -> str:
    return f"({value})" if isinstance(value, str) and value else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
