"""The page of `mesh explain`, and the same as data. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from google.protobuf.json_format import MessageToDict

from mesh.api.logsink.v1 import LogRecord
from mesh.api.tracesink.v1 import Segment, Span
from mesh.cli.explain.culprit import SLOW, Culprit
from mesh.cli.explain.hops import Hop, attributes, is_access, is_edge, milliseconds
from mesh.cli.explain.timeline import Entry, timeline
from mesh.cli.logs.show import structure as log_structure
from mesh.cli.traces.waterfall import CRITICAL, RUNNING, code_of, waterfall
from mesh.telemetry.record import level_name
from services.tracesink.critical_path import critical_path
from services.tracesink.trees import CLIENT, failed, parents

# Columns of a bar.
BAR = 24


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known of a correlation id."""

    correlation_id: str
    spans: Sequence[Span]
    records: Sequence[LogRecord]
    hops: Sequence[Hop]
    culprit: Culprit | None
    # Whether there is more than was asked for.
    truncated: bool = False

    @property
    def logs(self) -> list[LogRecord]:
        """What services logged: without the edges' records of calls, which the hops tell."""
        return [record for record in self.records if not is_access(record)]


def page(story: Story) -> list[str]:
    """Return the lines of the page."""
    found = [*_head(story), ""]
    if story.culprit is not None:
        title = "WHERE THE TIME WENT" if story.culprit.how == SLOW else "LIKELY CULPRIT"
        found += [title, f"  {story.culprit.service}: {story.culprit.why}", ""]
    if story.hops:
        found.append("AT THE EDGE")
        for hop in story.hops:
            found += [f"  {line}" for line in _hop(hop)]
        found.append("")
    entries = timeline(story.spans, story.logs)
    if entries:
        found += [
            f"SPANS AND LOG LINES ({CRITICAL} held it up, {RUNNING} under way, · a log line or an event)",
            *(f"  {line}" for line in _timeline(entries)),
        ]
    if story.truncated:
        found += ["", "There is more under this id than fits here: this is the begin."]
    return [plain(line) for line in found]


def _head(story: Story) -> list[str]:
    services = sorted({span.service for span in story.spans} | {record.service for record in story.records})
    traces = {span.trace_id for span in story.spans}
    counts = [
        f"{count} {name}{'' if count == 1 else 's'}"
        for count, name in (
            *((len(story.spans), "span"), (len(traces), "trace"), (len(story.logs), "log line")),
            (len(services), "service"),
        )
        if count
    ]
    said = story.correlation_id
    if story.hops:
        hop = story.hops[0]
        said += f": {hop.method} {_ended(hop.code)} after {milliseconds(hop.duration_ms)}, at {_clock(hop.start_ns)}"
    elif story.spans:
        span = min(story.spans, key=lambda span: (span.start_ns, -span.end_ns))
        how = "failed after" if failed(span) else "took"
        said += f": {span.name} {how} {milliseconds((span.end_ns - span.start_ns) / 1e6)}, at {_clock(span.start_ns)}"
    return [said, ", ".join(counts)]


def _ended(code: str) -> str:
    return (
        "succeeded" if code == "OK" else "was cancelled by its caller" if code == "CANCELLED" else f"failed with {code}"
    )


def _hop(hop: Hop) -> list[str]:
    head = f"{hop.method}  {hop.code}  {milliseconds(hop.duration_ms)}"
    if hop.listener:
        head += f"  ({hop.listener} listener of {hop.edge})"
    breaker = [("breaker", hop.breaker)] if hop.breaker else []
    rows = [("route", _route(hop)), *_attempts(hop), *breaker, ("deadline", _deadline(hop))]
    if hop.upstream_ms is not None:
        rows.append(("upstream", f"began to answer after {milliseconds(hop.upstream_ms)}"))
    if hop.release is not None:
        rows.append(("release", f"{hop.release} of mesh.edge" if hop.release else "none: the edge's own options"))
    if hop.reason:
        rows.append(("reason", f"{hop.reason}{f': {hop.message}' if hop.message else ''}"))
    elif hop.has_failed and hop.message:
        rows.append(("message", hop.message))
    return [head, *(f"  {name:<9} {text}" for name, text in rows)]


def _attempts(hop: Hop) -> list[tuple[str, str]]:
    rows = []
    if hop.address:
        rows.append(("endpoint", f"{hop.instance} at {hop.address}"))
    elif hop.service:
        rows.append(("endpoint", "none was picked"))
    if hop.attempts:
        rows.append(("attempts", str(hop.attempts)))
    return rows + [("", f"{number}. failed: {said}") for number, said in enumerate(hop.failed, 1)]


def _route(hop: Hop) -> str:
    if not hop.service:
        return "none"
    why = f": {hop.matched}" if hop.matched else ""
    if hop.route is None:
        return f"to {hop.service}"
    by = f", by {hop.route}{f' {hop.route_name!r}' if hop.route_name else ''}" if hop.route else ""
    return f"to {hop.service}{by}{why}"


def _deadline(hop: Hop) -> str:
    if hop.deadline_ms is None:
        return "none"
    left = hop.deadline_left_ms or 0.0
    rest = f"{milliseconds(left)} left at the end" if left > 0 else "it passed"
    return f"{milliseconds(max(0.0, hop.deadline_ms))} left at the begin, {rest}"


def _timeline(entries: Sequence[Entry]) -> list[str]:
    found: list[str] = []
    origin = min(entry.start_ns for entry in entries)
    before: tuple[int, int] | None = None
    for tree, group in groupby(entries, key=lambda entry: entry.tree):
        inside = list(group)
        first, last = tree
        # A tree long after the begin of all stands by itself, with a time of its own.
        if before is not None and first - origin > 10 * max(1, last - first) and last > first:
            found.append(_clock(first))
        before = tree
        bars = _bars([entry.span for entry in inside if entry.span is not None])
        for entry in inside:
            start = first if last > first else origin
            at = f"+{milliseconds((entry.start_ns - start) / 1e6)}" if entry.start_ns >= start else "before"
            bar = bars[id(entry.span)] if entry.span is not None else _point(entry)
            found.append(f"{at:>9} |{bar}| {'  ' * entry.depth}{_said(entry)}")
    return found


def _bars(spans: Sequence[Span]) -> dict[int, str]:
    """Return the bar of each span of a tree: what held it up, and what else was under way."""
    path = [
        Segment(span_id=spans[place].span_id, start_ns=start_ns, end_ns=end_ns)
        for place, start_ns, end_ns in critical_path(spans, parents(spans))
    ]
    return {id(row.span): row.bar for row in waterfall(spans, path, BAR)}


def _point(entry: Entry) -> str:
    first, last = entry.tree
    if last <= first:
        return " " * BAR
    at = min(BAR - 1, max(0, (entry.start_ns - first) * BAR // (last - first)))
    return f"{' ' * at}·{' ' * (BAR - at - 1)}"


def _said(entry: Entry) -> str:
    if entry.span is not None:
        span = entry.span
        who = "edge" if is_edge(span) else _where(span.service, span.instance)
        if span.kind == CLIENT and span.peer_service:
            who += f" → {span.peer_service}"
        code = code_of(span)
        code = "" if code == "OK" else code
        length = milliseconds((entry.end_ns - entry.start_ns) / 1e6)
        return "  ".join(filter(None, (who, span.name, length, code)))
    if entry.record is not None:
        record = entry.record
        level = level_name(record.severity_number) or "LOG"
        return f"{level} {_where(record.service, record.instance)}: {' '.join(record.body.split())[:300]}"
    event = entry.event or {}
    said = event.get("attributes")
    words = [str(value) for value in said.values() if value != ""] if isinstance(said, dict) else []
    return f"{event.get('name', 'event')}{': ' if words else ''}{', '.join(words)[:300]}"


def _where(service: str, instance: str) -> str:
    return instance if instance.startswith(service) and instance else f"{service}/{instance}".strip("/") or "?"


def _clock(at_ns: int) -> str:
    return dt.datetime.fromtimestamp(at_ns / 1e9, dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def plain(text: str) -> str:
    """Return text without what would command a terminal."""
    return text if text.isprintable() else "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


def structure(story: Story) -> dict[str, Any]:
    """Return the story as data; times in nanoseconds since 1970."""
    return {
        "correlation_id": story.correlation_id,
        "culprit": asdict(story.culprit) if story.culprit is not None else None,
        "edge": [{**asdict(hop), "deadline_left_ms": hop.deadline_left_ms} for hop in story.hops],
        "timeline": [_entry(entry) for entry in timeline(story.spans, story.records)],
        "truncated": story.truncated,
    }


def _entry(entry: Entry) -> dict[str, Any]:
    if entry.span is not None:
        span = MessageToDict(entry.span, preserving_proto_field_name=True)
        span |= {"start_ns": entry.span.start_ns, "end_ns": entry.span.end_ns}
        span["attributes"] = attributes(entry.span.attributes)
        span.pop("events", None)
        return {"depth": entry.depth, "span": span}
    if entry.record is not None:
        return {"depth": entry.depth, "log": log_structure(entry.record)}
    return {"depth": entry.depth, "event": dict(entry.event or {})}
