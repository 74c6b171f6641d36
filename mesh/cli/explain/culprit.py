"""Whose fault it most likely was, and whose time it took, in one sentence each. Pure.

A fault is looked for in the spans, as `services.tracesink.trees` has it: the deepest failure. Where the service that
was called sends no spans, what the edge or the caller saw of it speaks for it. Where there are no spans at all, the
edges' records do. Where nothing failed, whoever holds up the longest trace the longest has the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.api.logsink.v1 import LogRecord
from mesh.api.tracesink.v1 import Span
from mesh.cli.explain.hops import Hop, alone_ms, attributes, events, from_span, is_access, is_edge, milliseconds
from mesh.edge import EDGE_SERVICE
from mesh.telemetry.record import ERROR
from services.tracesink import trees
from services.tracesink.critical_path import critical_path

FAILED, LOGGED, SLOW = "failed", "logged an error", "slow"

# Each is compared with each.
MAX_HOPS = 500

# What the edge decides without asking anybody.
_OWN_REASONS = frozenset(
    {
        "no_route",
        "malformed_request",
        "headers_too_large",
        "message_too_large",
        "rate_limited",
        "overloaded",
        "draining",
    }
)

# Service, instance, name of the span.
_Who = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Culprit:
    """Who it most likely was."""

    # FAILED, LOGGED or SLOW.
    how: str
    service: str
    instance: str
    # The span that says so; "" where a log record does.
    span_id: str
    # One sentence.
    why: str


def culprit(spans: Sequence[Span], records: Sequence[LogRecord], hops: Sequence[Hop]) -> Culprit | None:
    """Return who most likely made the calls fail or, where none failed, take their time; None when nothing is known."""
    above = trees.parents(spans)
    place = trees.culprit(spans, above)
    if place >= 0:
        return _with_log(_of_span(spans, above, place), records)
    failed = [hop for hop in hops if hop.has_failed]
    if failed:  # of calls within calls the innermost ends first
        return _with_log(_of_hop(min(failed, key=lambda hop: (hop.end_ns, -hop.start_ns))), records)
    errors = [record for record in records if record.severity_number >= ERROR and not is_access(record)]
    if errors:
        first = min(errors, key=lambda record: record.ts_ns)
        said = f"no call failed, but {first.instance or first.service} logged: {_short(first.body)}"
        return Culprit(LOGGED, first.service, first.instance, first.span_id, said)
    if spans:
        return _slowest(spans, above)
    if hops:
        longest = max(hop.duration_ms for hop in hops)
        hops = hops[:MAX_HOPS]
        return _slow_hop(max(hops, key=lambda hop: alone_ms(hop, hops)), hops, longest)
    return None


def _of_span(spans: Sequence[Span], above: Sequence[int], place: int) -> Culprit:
    span = spans[place]
    silent = _silent(spans, above)[place]
    if is_edge(span):
        return _of_hop(from_span(span), told=not silent)
    answer = _answer(span.rpc_status_code, _exception(span) or span.status_message)
    if span.kind == trees.CLIENT and span.peer_service and silent:
        said = (
            f"{_who(span)} called {span.name} of {span.peer_service}, {answer}; {span.peer_service} sent no span of it"
        )
        return Culprit(FAILED, span.peer_service, from_span(span).instance, span.span_id, said)
    what = span.name if span.rpc_method or span.kind != trees.SERVER else f"{span.name} (no call of gRPC)"
    return Culprit(FAILED, span.service, span.instance, span.span_id, f"{_who(span)} failed in {what}, {answer}")


def _of_hop(hop: Hop, *, told: bool = False) -> Culprit:
    """Return whom a call through an edge that failed speaks against; `told` where spans of what it called are known."""
    where = hop.instance or hop.service
    said = f": {_short(hop.message)}" if hop.message else ""
    service, instance = hop.service or EDGE_SERVICE, hop.instance
    if hop.reason in _OWN_REASONS:
        service, instance = EDGE_SERVICE, hop.edge
        why = f"the edge {hop.edge} refused {hop.method} with {hop.code} ({hop.reason}){said}"
    elif hop.reason == "no_endpoint":
        why = f"{hop.service} has no instance that takes calls, so the edge refused {hop.method}{said}"
    elif hop.reason == "breaker_open":
        why = f"every endpoint of {hop.service} had failed before: its circuit breakers were open for {hop.method}"
    elif hop.reason == "upstream_connect_failed":
        tries = f" ({hop.attempts} attempts)" if hop.attempts > 1 else ""
        why = f"the edge could not connect to {where} at {hop.address} for {hop.method}{tries}{said}"
    elif hop.reason == "deadline_exceeded":
        given = f" of {milliseconds(hop.deadline_ms)}" if hop.deadline_ms is not None else ""
        why = f"{where or 'nobody'} had not answered {hop.method} when the deadline{given} passed"
    elif hop.reason:
        why = f"{where} broke {hop.method} off ({hop.reason}){said}"
    elif told:
        why = f"{where} failed in {hop.method}, {_answer(hop.code, hop.message)}, though all that it called went well"
    else:
        why = f"{where} failed in {hop.method}, {_answer(hop.code, hop.message)}"
    return Culprit(FAILED, service, instance, hop.span_id, why)


def _with_log(found: Culprit, records: Sequence[LogRecord]) -> Culprit:
    """Add what the culprit logged as an error itself, first in its span."""
    own = [
        record
        for record in records
        if record.severity_number >= ERROR and record.service == found.service and not is_access(record)
    ]
    if not own:
        return found
    first = min(own, key=lambda record: (record.span_id != found.span_id, record.ts_ns))
    said = f"{found.why}; it logged: {_short(first.body)}"
    return Culprit(found.how, found.service, found.instance or first.instance, found.span_id, said)


def _slowest(spans: Sequence[Span], above: Sequence[int]) -> Culprit:
    """Return who holds the longest tree up for most of its time."""
    longest = max(trees.roots(spans, above), key=lambda place: spans[place].end_ns - spans[place].start_ns)
    trace = [span for place, span in enumerate(spans) if _top(above, place) == longest]
    inside = trees.parents(trace)
    total, times, places = 0, defaultdict[_Who, int](int), dict[_Who, int]()
    blamed = [_blamed(*one) for one in zip(trace, _silent(trace, inside), strict=True)]
    for place, start_ns, end_ns in critical_path(trace, inside):
        key = blamed[place]
        total += end_ns - start_ns
        times[key] += end_ns - start_ns
        places.setdefault(key, place)
    if not times:  # it took no time at all
        span = trace[trees.roots(trace, inside)[0]]
        return Culprit(SLOW, span.service, span.instance, span.span_id, "it took no time that could be measured")
    key = max(times, key=lambda one: times[one])
    service, instance, name = key
    spent, span = times[key], trace[places[key]]
    count = blamed.count(key)
    often = f" in {count} calls" if count > 1 else ""
    share = f"{100 * spent / total:.0f} %" if total else "all"
    said = (
        f"{instance or service} took {milliseconds(spent / 1e6)} of {milliseconds(total / 1e6)} ({share}) "
        f"in {name} itself{often}"
    )
    if service == EDGE_SERVICE:
        said += ": in the edge and on the way to and from what it calls"
    return Culprit(SLOW, service, instance, span.span_id, said)


def _top(above: Sequence[int], place: int) -> int:
    while above[place] >= 0:
        place = above[place]
    return place


def _slow_hop(hop: Hop, hops: Sequence[Hop], whole_ms: float) -> Culprit:
    own = milliseconds(alone_ms(hop, hops))
    said = f"{hop.instance or hop.service} took {own} of {milliseconds(whole_ms)} for {hop.method} itself"
    return Culprit(SLOW, hop.service or EDGE_SERVICE, hop.instance, hop.span_id, said)


def _silent(spans: Sequence[Span], above: Sequence[int]) -> list[bool]:
    """Tell of each span whether nobody else tells of what it called: below an edge's, no span of the called service."""
    below: list[set[str]] = [set() for _ in spans]
    for span, parent in zip(spans, above, strict=True):
        if parent >= 0:
            below[parent].add(span.service)
    return [
        span.peer_service not in services if is_edge(span) else not services
        for span, services in zip(spans, below, strict=True)
    ]


def _blamed(span: Span, silent: bool) -> _Who:
    """Return whose time a span's own is: that of who was called, where nobody else tells of it."""
    if silent and span.peer_service and (is_edge(span) or span.kind == trees.CLIENT):
        return span.peer_service, from_span(span).instance, span.name
    return span.service, span.instance, span.name


def _who(span: Span) -> str:
    if span.instance and not span.instance.startswith(span.service):
        return f"{span.service} ({span.instance})"
    return span.instance or span.service or "somebody"


def _answer(code: str, message: str) -> str:
    if not code:
        return f"with: {_short(message)}" if message else "and does not say why"
    return f"with {code}: {_short(message)}" if message else f"with {code}"


def _exception(span: Span) -> str:
    """Return the exception that a span tells of, the last one."""
    for event in reversed(events(span.events)):
        said = event.get("attributes")
        if event.get("name") == "exception" and isinstance(said, dict):
            return ": ".join(str(said[key]) for key in ("exception.type", "exception.message") if said.get(key))
    kind = attributes(span.attributes).get("error.type")
    return "" if span.status_message or not isinstance(kind, str) or kind == span.rpc_status_code else kind


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:199]}…"
