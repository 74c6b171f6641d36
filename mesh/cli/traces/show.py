"""How traces look on a terminal, and as data."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from mesh.api.tracesink.v1 import (
    GetTraceResponse,
    LatencyResponse,
    Span,
    TopologyResponse,
    TraceSummary,
)
from mesh.cli.output import print_line, say, table
from mesh.cli.traces.waterfall import CRITICAL, MAX_NAME, RUNNING, WIDTH, Row, duration, shortened, waterfall
from services.tracesink.trees import blamed, failed, parents

# Columns that bars take at least, and what a terminal that is none has.
LEAST_WIDTH = 20
COLUMNS = 160
_JSON = ("attributes", "events", "links")


def print_traces(traces: Sequence[TraceSummary]) -> None:
    """Print a table of traces."""
    rows = [
        (
            moment(trace.start_ns),
            trace.trace_id,
            duration(trace.duration_ns),
            str(trace.spans),
            str(trace.errors),
            shortened(f"{trace.root_service or '-'} {trace.root_name}"),
            trace.root_status_code or "-",
            shortened(f"{trace.culprit_service} {trace.culprit_name}") if trace.errors else "-",
            "-" if trace.correlation_id == trace.trace_id else shortened(trace.correlation_id),
        )
        for trace in traces
    ]
    head = ("TIME", "TRACE", "TOOK", "SPANS", "FAILED", "FIRST SPAN", "CODE", "LIKELY CULPRIT", "CID")
    print_line("\n".join(table(head, rows)))


def print_trace(trace: GetTraceResponse, limit: int) -> None:
    """Print a trace as a waterfall, of at most `limit` spans."""
    console: Any = None
    columns = COLUMNS
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False)
        columns = shutil.get_terminal_size().columns
    for line in heading(trace.spans, truncated=trace.truncated):
        print_line(line)
    print_line()
    rows = waterfall(trace.spans, trace.critical_path, 1)[:limit]
    width = max(LEAST_WIDTH, min(WIDTH, columns - _taken(rows)))
    rows = waterfall(trace.spans, trace.critical_path, width)[:limit]
    for row, line in zip([None, *rows], lines(rows), strict=True):
        if console is not None:
            style = "dim" if row is None else "red" if row.failed else ""
            console.print(line, style=style, soft_wrap=True, markup=False)
        else:
            print_line(line)
    if len(trace.spans) > limit:
        say(f"{len(trace.spans) - limit} more spans; -n shows more, --json all")


def heading(spans: Sequence[Span], *, truncated: bool = False) -> list[str]:
    """Return in a few lines what the trace is, and what was wrong with it."""
    first = min(spans, key=lambda span: span.start_ns)
    length = max(span.end_ns for span in spans) - first.start_ns
    bad = sum(map(failed, spans))
    counted = f"{'the first ' if truncated else ''}{len(spans)} span{'s' if len(spans) != 1 else ''}"
    services = len({span.service for span in spans})
    of = f"{counted} of {services} service{'s' if services != 1 else ''}"
    ids = dict.fromkeys(span.correlation_id for span in spans if span.correlation_id != span.trace_id)
    found = [
        f"trace {first.trace_id}",
        f"{moment(first.start_ns, exact=True)}, took {duration(length)}: {of}, {bad} failed",
    ]
    if ids:
        found.append(f"correlation id {', '.join(map(shortened, ids))}")
    if bad:
        service, name = blamed(spans, parents(spans))
        found.append(f"likely culprit: {service or '-'} {shortened(name)}")
    return found


def lines(rows: Sequence[Row]) -> list[str]:
    """Return the waterfall as text: a head, then a line for each row."""
    texts = [
        (f"{row.prefix}{row.label}", row.code or "-", duration(row.duration_ns), duration(row.self_ns), f"▏{row.bar}▕")
        for row in rows
    ]
    head = ("SPAN", "CODE", "TOOK", "SELF", f"{CRITICAL} critical path {RUNNING} under way")
    return table(head, texts)


def _taken(rows: Sequence[Row]) -> int:
    """Return the columns that all but the bars take."""
    widest = max((len(row.prefix) + len(row.label) for row in rows), default=0)
    code = max((len(row.code) for row in rows), default=0)
    return widest + max(code, 4) + 2 * 8 + 4 * 2 + 2


def print_latencies(reply: LatencyResponse, limit: int) -> None:
    """Print where the time went, by service and method, the `limit` that took the most."""
    total = sum(row.self_ns for row in reply.rows) or 1
    rows = [
        (
            row.service or "-",
            shortened(row.method, MAX_NAME),
            str(row.calls),
            str(row.errors),
            duration(row.self_ns),
            f"{100 * row.self_ns / total:.1f} %",
            duration(row.self_p95_ns),
            *(duration(value) for value in (row.p50_ns, row.p95_ns, row.p99_ns)),
        )
        for row in reply.rows[:limit]
    ]
    head = ("SERVICE", "METHOD", "SPANS", "FAILED", "SELF", "SHARE", "SELF P95", "P50", "P95", "P99")
    print_line("\n".join(table(head, rows)))
    _say_truncated(reply.spans, truncated=reply.truncated)


def print_topology(reply: TopologyResponse) -> None:
    """Print who calls whom."""
    rows = [
        (
            edge.caller or "-",
            "»" if edge.messages else "→",
            edge.callee or "-",
            str(edge.calls),
            str(edge.errors),
            f"{100 * edge.errors / edge.calls:.1f} %",
            *(duration(value) for value in (edge.p50_ns, edge.p95_ns, edge.p99_ns)),
        )
        for edge in sorted(reply.edges, key=lambda one: (one.caller, -one.calls, one.callee))
    ]
    print_line("\n".join(table(("CALLER", "", "CALLEE", "CALLS", "FAILED", "RATE", "P50", "P95", "P99"), rows)))
    if any(edge.messages for edge in reply.edges):
        say("» are messages: their times are from the begin of sending until they were dealt with")
    _say_truncated(reply.spans, truncated=reply.truncated)


def _say_truncated(spans: int, *, truncated: bool) -> None:
    if truncated:
        say(f"of the newest {spans} spans; there are more: narrow the time with --since and --until")


def trace_structure(trace: GetTraceResponse) -> dict[str, Any]:
    """Return a trace as data."""
    return {
        "trace_id": trace.spans[0].trace_id if trace.spans else "",
        "spans": [span_structure(span) for span in trace.spans],
        "critical_path": structures(trace.critical_path),
        "truncated": trace.truncated,
    }


def span_structure(span: Span) -> dict[str, Any]:
    """Return a span as data; what is empty is left out."""
    found = structure(span)
    for name in _JSON:
        found[name] = json.loads(found[name] or "null")
    return {name: value for name, value in found.items() if value not in ("", 0, {}, [], None)}


def structures(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return messages as data."""
    return [structure(message) for message in messages]


def structure(message: Message) -> dict[str, Any]:
    """Return all fields of a flat message; those that can be repeated as lists."""
    return {
        field.name: list(value) if field.is_repeated else value
        for field in message.DESCRIPTOR.fields
        for value in (getattr(message, field.name),)
    }


def moment(ns: int, *, exact: bool = False) -> str:
    """Return a time as people read it, in the machine's zone."""
    seconds, rest = divmod(ns, 10**9)
    shown = dt.datetime.fromtimestamp(seconds, dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return f"{shown}.{rest // 10**6:03}" if exact else shown
