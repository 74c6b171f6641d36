"""The waterfall of a trace, and how durations look."""

from __future__ import annotations

import pytest

from mesh.api.tracesink.v1 import Segment, Span
from mesh.cli.traces.show import heading, lines, span_structure
from mesh.cli.traces.waterfall import duration, shortened, waterfall

MS = 1_000_000
TRACE = "0af7651916cd43dd8448eb211c80319c"


def span(
    number: int, parent: int, start: int, end: int, service: str, name: str, kind: int = 2, code: str = "OK"
) -> Span:
    return Span(
        trace_id=TRACE,
        span_id=f"{number:016x}",
        parent_span_id=f"{parent:016x}" if parent else "",
        start_ns=start * MS,
        end_ns=end * MS,
        service=service,
        name=name,
        kind=kind,  # type: ignore[arg-type]
        rpc_status_code=code,
        correlation_id="order-7",
    )


SPANS = [
    span(1, 0, 0, 100, "shop", "Place", code="UNAVAILABLE"),
    span(2, 1, 10, 60, "shop", "Pay", 3, "UNAVAILABLE"),
    span(3, 2, 20, 50, "payments", "Pay", code="UNAVAILABLE"),
    span(4, 1, 60, 80, "shop", "mail", 4),
    span(9, 8, 90, 95, "stray", "its parent is missing"),
]
PATH = [
    Segment(span_id=f"{number:016x}", start_ns=start * MS, end_ns=end * MS)
    for number, start, end in ((1, 0, 10), (2, 10, 20), (3, 20, 50), (2, 50, 60), (4, 60, 80), (1, 80, 100))
]


def test_a_trace_as_a_tree_with_bars() -> None:
    rows = waterfall(SPANS, PATH, 20)
    assert lines(rows) == [
        "SPAN                         CODE         TOOK     SELF     █ critical path ░ under way",
        "shop Place                   UNAVAILABLE  100 ms   30.0 ms  ▏██░░░░░░░░░░░░░░████▕",
        "├ shop → Pay                 UNAVAILABLE  50.0 ms  20.0 ms  ▏  ██░░░░░░██        ▕",
        "│ └ payments Pay             UNAVAILABLE  30.0 ms  30.0 ms  ▏    ██████          ▕",
        "└ shop » mail                OK           20.0 ms  20.0 ms  ▏            ████    ▕",
        "stray its parent is missing  OK           5.00 ms  5.00 ms  ▏                  ░ ▕",
    ]
    assert [row.critical_ns // MS for row in rows] == [30, 20, 30, 20, 0]
    assert [row.depth for row in rows] == [0, 1, 2, 1, 0]


def test_whom_a_span_calls() -> None:
    made = [span(1, 0, 0, 1, "shop", "Pay", 3), span(2, 0, 0, 1, "mesh-edge", "Pay"), span(3, 0, 0, 1, "bank", "Pay")]
    for one in made:
        one.peer_service = "payments"
    labels = [row.label for row in waterfall(made)]
    # A server's peer is who called it.
    assert labels == ["shop → payments Pay", "mesh-edge → payments Pay", "bank Pay"]


def test_the_head_names_the_culprit() -> None:
    first, second, *rest = heading(SPANS)
    assert first == f"trace {TRACE}"
    assert second.endswith("took 100 ms: 5 spans of 3 services, 3 failed")
    assert rest == ["correlation id order-7", "likely culprit: payments Pay"]
    assert heading(SPANS[4:], truncated=True)[1].endswith("took 5.00 ms: the first 1 span of 1 service, 0 failed")


def test_a_span_of_no_length_is_seen_at_its_place() -> None:
    spans = [span(1, 0, 0, 10, "a", "a"), span(2, 1, 10, 10, "a", "at the end"), span(3, 1, 0, 0, "a", "at the begin")]
    assert [row.bar for row in waterfall(spans, (), 5)] == ["░░░░░", "░    ", "    ░"]
    alone = [span(1, 0, 5, 5, "a", "a")]
    assert waterfall(alone, (), 3)[0].bar == "░  "
    assert waterfall([], (), 3) == []


def test_what_strangers_wrote_does_not_command_the_terminal() -> None:
    assert shortened("a\x1b[2Jb\nc") == "a·[2Jb·c"
    assert shortened("x" * 50 + "shop.v1.Orders/Get", 20) == "…xshop.v1.Orders/Get"


@pytest.mark.parametrize(
    ("ns", "shown"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1_000, "1.00 µs"),
        (12_345, "12.3 µs"),
        (999_499, "999 µs"),
        (999_600, "1.00 ms"),
        (4_560_000, "4.56 ms"),
        (123_456_789, "123 ms"),
        (7_890_000_000, "7.89 s"),
        (99_000_000_000, "99.0 s"),
        (125 * 10**9, "2m 5s"),
        (7_500 * 10**9, "2h 5m"),
    ],
)
def test_durations_have_three_digits(ns: int, shown: str) -> None:
    assert duration(ns) == shown


def test_a_span_as_data() -> None:
    made = span(1, 0, 0, 1, "a", "b")
    made.attributes, made.events = '{"order.id":"7"}', "[]"
    assert span_structure(made) == {
        "end_ns": MS,
        "trace_id": TRACE,
        "span_id": f"{1:016x}",
        "name": "b",
        "kind": 2,
        "service": "a",
        "correlation_id": "order-7",
        "rpc_status_code": "OK",
        "attributes": {"order.id": "7"},
    }
