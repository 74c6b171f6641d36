"""Spans as a tree, with events and log lines at their places in it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.api.logsink.v1 import LogRecord
from mesh.api.tracesink.v1 import Span
from mesh.cli.explain.hops import events
from services.tracesink import trees


@dataclass(frozen=True, slots=True)
class Entry:
    """A span, an event of one, or a log record: whichever is not None."""

    # How many spans are above it.
    depth: int
    start_ns: int
    # The same where it is no span.
    end_ns: int
    # From the begin to the end of the tree that it is in; of itself where it is in none.
    tree: tuple[int, int]
    span: Span | None = None
    event: Mapping[str, Any] | None = None
    record: LogRecord | None = None


@dataclass(frozen=True, slots=True)
class _Leaf:
    at_ns: int
    event: Mapping[str, Any] | None = None
    record: LogRecord | None = None


def timeline(spans: Sequence[Span], records: Sequence[LogRecord]) -> list[Entry]:
    """Return everything in order: each span before what happened in it, and siblings by their times.

    A record is in the span that it names; else in the innermost that was under way then, of its service if there is
    one; else beside the trees.
    """
    above = trees.parents(spans)
    below = trees.children(spans, above)
    depths = trees.depths(above)
    leaves: dict[int, list[_Leaf]] = {}
    places = {span.span_id: place for place, span in enumerate(spans)}
    times = [(span.start_ns, span.end_ns) for span in spans]
    for record in records:
        place = places.get(record.span_id, -1) if record.span_id else -1
        if place < 0:
            at = record.ts_ns
            around = [place for place, (start, end) in enumerate(times) if start <= at <= end]
            place = max(around, key=lambda one: (spans[one].service == record.service, depths[one]), default=-1)
        leaves.setdefault(place, []).append(_Leaf(record.ts_ns, record=record))
    for place, span in enumerate(spans):
        leaves.setdefault(place, []).extend(_Leaf(_moment(one, span), event=one) for one in events(span.events))
    found: list[Entry] = []
    # What waits, the next one last: a place or a leaf, its depth, and the times of its tree.
    waiting: list[tuple[int | _Leaf, int, tuple[int, int]]] = []

    def put(places: Sequence[int], beside: Sequence[_Leaf], depth: int, tree: tuple[int, int] | None) -> None:
        siblings: list[tuple[int, int | _Leaf]] = [(spans[place].start_ns, place) for place in places]
        siblings += [(leaf.at_ns, leaf) for leaf in beside]
        siblings.sort(key=lambda one: one[0])
        for at_ns, one in siblings[::-1]:
            own = (at_ns, at_ns) if isinstance(one, _Leaf) else _extent(spans, below, one)
            waiting.append((one, depth, tree or own))

    put(trees.roots(spans, above), leaves.get(-1, ()), 0, None)
    while waiting:
        one, depth, tree = waiting.pop()
        if isinstance(one, _Leaf):
            found.append(Entry(depth, one.at_ns, one.at_ns, tree, event=one.event, record=one.record))
            continue
        span = spans[one]
        found.append(Entry(depth, span.start_ns, max(span.start_ns, span.end_ns), tree, span=span))
        put(below[one], leaves.get(one, ()), depth + 1, tree)
    return found


def _extent(spans: Sequence[Span], below: Sequence[Sequence[int]], root: int) -> tuple[int, int]:
    start, end, waiting = spans[root].start_ns, spans[root].end_ns, [root]
    while waiting:
        place = waiting.pop()
        start, end = min(start, spans[place].start_ns), max(end, spans[place].end_ns)
        waiting.extend(below[place])
    return start, max(start, end)


def _moment(event: Mapping[str, Any], span: Span) -> int:
    at = event.get("ts_ns")
    return at if isinstance(at, int) else span.start_ns
