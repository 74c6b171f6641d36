"""The spans of a trace as a tree with bars over its time. Pure: whoever has spans can show them so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mesh.api.tracesink.v1 import Segment, Span
from services.tracesink.critical_path import self_times
from services.tracesink.trees import CLIENT, CONSUMER, PRODUCER, calls_peer, children, failed, parents, roots

# Columns of the bars.
WIDTH = 40
# A name is cut from the left, so that its method stays.
MAX_NAME = 60

CRITICAL, RUNNING = "█", "░"
# Between a service and what it calls, sends or deals with.
_ARROWS = {CLIENT: "→", PRODUCER: "»", CONSUMER: "«"}


@dataclass(frozen=True, slots=True)
class Row:
    """A span as one line of a waterfall."""

    span: Span
    # How deep it lies in the tree, and what is drawn before it.
    depth: int
    prefix: str
    # Service and name; a client's has an arrow between, and whom it calls, so that both sides of a call are told apart.
    label: str
    # Its gRPC code, or what its status says.
    code: str
    failed: bool
    duration_ns: int
    # While nothing below it was under way.
    self_ns: int
    # How long it was what held the trace up.
    critical_ns: int
    # When it was under way: CRITICAL where it held the trace up, RUNNING elsewhere.
    bar: str


def waterfall(spans: Sequence[Span], path: Sequence[Segment] = (), width: int = WIDTH) -> list[Row]:
    """Return a row for each span, parents before their children, siblings by their start.

    `path` is the critical path as the trace sink has it. Spans whose parents are missing stand at the top.
    """
    above = parents(spans)
    below = children(spans, above)
    alone = self_times(spans, below)
    held: dict[str, list[tuple[int, int]]] = {}
    for segment in path:
        held.setdefault(segment.span_id, []).append((segment.start_ns, segment.end_ns))
    scale = _Scale.of(spans, width)
    rows = []
    # Place, depth, the prefix of the span, and that of what is below it.
    waiting = [(place, 0, "", "") for place in reversed(roots(spans, above))]
    while waiting:
        place, depth, prefix, inner = waiting.pop()
        span = spans[place]
        times = held.get(span.span_id, [])
        rows.append(
            Row(
                span=span,
                depth=depth,
                prefix=prefix,
                label=_label(span),
                code=code_of(span),
                failed=failed(span),
                duration_ns=max(0, span.end_ns - span.start_ns),
                self_ns=alone[place],
                critical_ns=sum(end - start for start, end in times),
                bar=scale.bar(span, times),
            )
        )
        last = len(below[place]) - 1
        for number, child in reversed(list(enumerate(below[place]))):
            branch, rest = ("└ ", "  ") if number == last else ("├ ", "│ ")
            waiting.append((child, depth + 1, inner + branch, inner + rest))
    return rows


def _label(span: Span) -> str:
    arrow = "→" if calls_peer(span) else _ARROWS.get(span.kind, "")
    peer = span.peer_service if calls_peer(span) else ""
    return " ".join(part for part in (span.service or "-", arrow, peer, shortened(span.name)) if part)


def code_of(span: Span) -> str:
    """Return a span's gRPC code, ERROR where it failed without one, or nothing."""
    return span.rpc_status_code or ("ERROR" if failed(span) else "")


def duration(ns: float) -> str:
    """Return a duration with three digits: 850 ns, 12.3 µs, 4.56 ms, 7.89 s, 12m 5s."""
    for unit, size in (("ns", 1), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)):
        if abs(ns) < (99.95 if unit == "s" else 999.5) * size:
            value = ns / size
            digits = 0 if unit == "ns" or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
            return f"{value:.{digits}f} {unit}"
    seconds = round(ns / 1e9)
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60}s"
    return f"{seconds // 3600}h {seconds % 3600 // 60}m"


def shortened(name: str, most: int = MAX_NAME) -> str:
    """Return a name on one line, without what would command a terminal, cut from the left if it is long."""
    plain = "".join(char if char.isprintable() else "·" for char in name)
    return plain if len(plain) <= most else f"…{plain[1 - most :]}"


@dataclass(frozen=True, slots=True)
class _Scale:
    """The time of a trace in columns."""

    start_ns: int
    length_ns: int
    width: int

    @classmethod
    def of(cls, spans: Sequence[Span], width: int) -> _Scale:
        start = min((span.start_ns for span in spans), default=0)
        end = max((span.end_ns for span in spans), default=0)
        return cls(start, max(1, end - start), width)

    def bar(self, span: Span, held: Sequence[tuple[int, int]]) -> str:
        cells = [" "] * self.width
        self._fill(cells, span.start_ns, max(span.start_ns, span.end_ns), RUNNING)
        for start, end in held:
            self._fill(cells, start, end, CRITICAL)
        return "".join(cells)

    def _fill(self, cells: list[str], start_ns: int, end_ns: int, char: str) -> None:
        """Draw from the column of the start up to that of the end, at least one."""
        first = min((start_ns - self.start_ns) * self.width // self.length_ns, self.width - 1)
        last = -(-(end_ns - self.start_ns) * self.width // self.length_ns)
        for column in range(first, max(first + 1, min(last, self.width))):
            # Short stretches must not hide longer ones' columns: what is critical stays.
            if cells[column] != CRITICAL:
                cells[column] = char
