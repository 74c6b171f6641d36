"""The story of a call: who it was, why, and how the page reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.api.logsink.v1 import LogRecord
from mesh.api.tracesink.v1 import SPAN_STATUS_ERROR, Span
from mesh.cli.explain.culprit import FAILED, LOGGED, SLOW, Culprit, culprit
from mesh.cli.explain.hops import Hop, from_record, hops, nested
from mesh.cli.explain.page import Story, page, structure
from mesh.cli.explain.timeline import timeline
from mesh.telemetry.record import ERROR, INFO

SERVER, CLIENT = 2, 3
MS = 1_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def span(
    name: str, start: int, end: int, number: int, parent: int = 0, *, code: str = "OK", kind: int = SERVER, **more: Any
) -> Span:
    """Return a span of a service; times in milliseconds."""
    service, _, method = name.partition(" ")
    said: dict[str, Any] = {"service": service, "instance": f"{service}-1", "rpc_method": method, **more}
    said |= {"kind": kind, "status": 2 if code not in ("OK", "") else 0}
    return Span(
        trace_id=TRACE,
        span_id=f"{number:016x}",
        parent_span_id=f"{parent:016x}" if parent else "",
        name=method,
        rpc_status_code=code,
        start_ns=start * MS,
        end_ns=end * MS,
        correlation_id="order-42",
        **said,
    )


def edge(to: str, start: int, end: int, number: int, parent: int = 0, *, code: str = "OK", **more: Any) -> Span:
    """Return a span of an edge; what is not a field is an attribute."""
    service, _, _method = to.partition(" ")
    message, events = more.pop("status_message", ""), more.pop("events", "")
    said = {
        "mesh.listener": "public",
        "mesh.attempts": 1,
        "mesh.instance": f"{service}-1",
        "server.address": "10.0.0.1:1",
        "mesh.release": 7,
        "mesh.route": "",
        "mesh.route.match": "the registry: it declares a.B",
        "mesh.breaker": "closed",
        **{f"mesh.{name}": value for name, value in more.items()},
    }
    made = span(to, start, end, number, parent, code=code, attributes=json.dumps(said), status_message=message)
    made.service, made.instance, made.peer_service, made.events = "mesh-edge", "edge-1", service, events
    return made


def log(service: str, at: int, body: str, severity: int = INFO, number: int = 0, **more: Any) -> LogRecord:
    if number:
        more |= {"trace_id": TRACE, "span_id": f"{number:016x}"}
    return LogRecord(
        ts_ns=at * MS, severity_number=severity, body=body, service=service, instance=f"{service}-1", **more
    )


def access(at: int, number: int = 0, **said: Any) -> LogRecord:
    told = {"listener": "public", "attempts": 1, "code": "OK", "duration_ms": 10.0, **said}
    return log("mesh-edge", at, "…", number=number, event_name="access", attributes=json.dumps(told))


def found(spans: list[Span], records: list[LogRecord] | None = None) -> Culprit:
    made = culprit(spans, records or [], hops(spans, records or []))
    assert made is not None
    return made


# Storefront calls orders, orders calls stock; each through the edge.
def shop(stock: str = "OK", orders: str = "OK", *, stock_tells: bool = True, **of_the_edge: Any) -> list[Span]:
    spans = [
        edge("orders a.Orders/Place", 0, 100, 1, code=orders),
        span("orders a.Orders/Place", 1, 99, 2, 1, code=orders),
        edge("stock a.Stock/Take", 10, 90, 3, 2, code=stock, **of_the_edge),
    ]
    if stock_tells:
        spans.append(span("stock a.Stock/Take", 11, 89, 4, 3, code=stock, status_message="no disk" if stock else ""))
    return spans


def test_the_deepest_failure_is_the_culprit() -> None:
    who = found(shop("INTERNAL", "INTERNAL"))
    assert (who.how, who.service, who.instance, who.span_id) == (FAILED, "stock", "stock-1", f"{4:016x}")
    assert who.why == "stock-1 failed in a.Stock/Take, with INTERNAL: no disk"


def test_what_the_culprit_logged_is_told_with_it() -> None:
    records = [log("orders", 95, "it failed", ERROR), log("stock", 80, "disk\nfull", ERROR, 4)]
    assert found(shop("INTERNAL", "INTERNAL"), records).why.endswith("; it logged: disk full")


def test_a_service_without_spans_is_spoken_for_by_the_edge() -> None:
    who = found(shop("INTERNAL", "INTERNAL", stock_tells=False, status_message="no disk"))
    assert (who.service, who.instance) == ("stock", "stock-1")
    assert who.why == "stock-1 failed in a.Stock/Take, with INTERNAL: no disk"


def test_a_client_that_failed_alone_speaks_against_whom_it_called() -> None:
    spans = [span("orders a.Orders/Place", 0, 9, 1, code="UNAVAILABLE")]
    spans.append(span("orders a.Bank/Pay", 1, 8, 2, 1, code="UNAVAILABLE", kind=CLIENT, peer_service="bank"))
    who = found(spans)
    assert who.service == "bank"
    assert who.why == "orders-1 called a.Bank/Pay of bank, with UNAVAILABLE; bank sent no span of it"


def test_a_call_between_services_names_both_and_the_instance_that_was_called() -> None:
    where = json.dumps({"mesh.instance": "bank-2", "server.address": "10.0.0.1:1"})
    spans = [
        edge("orders a.Orders/Place", 0, 100, 1),
        span("orders a.Orders/Place", 1, 99, 2, 1),
        span("orders a.Bank/Pay", 10, 90, 3, 2, kind=CLIENT, peer_service="bank", attributes=where),
    ]
    who = found(spans)
    assert (who.how, who.service, who.instance) == (SLOW, "bank", "bank-2")
    told = page(Story("order-42", spans, [], hops(spans, []), who))
    assert told[-1].endswith("|     orders-1 → bank  a.Bank/Pay  80 ms")


@pytest.mark.parametrize(
    ("reason", "code", "service", "why"),
    [
        ("no_endpoint", "UNAVAILABLE", "stock", "stock has no instance that takes calls"),
        ("breaker_open", "UNAVAILABLE", "stock", "its circuit breakers were open"),
        ("upstream_connect_failed", "UNAVAILABLE", "stock", "could not connect to stock-1 at 10.0.0.1:1"),
        ("deadline_exceeded", "DEADLINE_EXCEEDED", "stock", "when the deadline of 50 ms passed"),
        ("upstream_reset", "UNAVAILABLE", "stock", "stock-1 broke a.Stock/Take off (upstream_reset)"),
        ("rate_limited", "RESOURCE_EXHAUSTED", "mesh-edge", "the edge edge-1 refused a.Stock/Take"),
        ("no_route", "UNIMPLEMENTED", "mesh-edge", "the edge edge-1 refused a.Stock/Take"),
    ],
)
def test_what_the_edge_decided_is_told_with_its_reason(reason: str, code: str, service: str, why: str) -> None:
    who = found(shop(code, code, stock_tells=False, reason=reason, deadline_ms=50.0))
    assert who.service == service
    assert why in who.why


def test_a_failure_that_was_mended_is_none() -> None:
    spans = shop()
    spans.append(edge("disk a.Disk/Write", 20, 29, 5, 4, code="UNAVAILABLE"))
    assert found(spans).service == "disk", "it is told when nothing else failed"
    spans += [span("tax a.Tax/Add", 91, 95, 6, 2, code="INTERNAL")]
    spans[1].rpc_status_code, spans[1].status = "INTERNAL", SPAN_STATUS_ERROR
    assert found(spans).service == "tax"


def test_without_spans_the_edges_records_speak() -> None:
    records = [
        access(
            100, method="/a.Orders/Place", service="orders", instance="orders-1", code="INTERNAL", duration_ms=100.0
        ),
        access(90, method="/a.Stock/Take", service="stock", instance="stock-1", code="INTERNAL", duration_ms=80.0),
    ]
    who = found([], records)
    assert (who.how, who.service, who.why) == (FAILED, "stock", "stock-1 failed in a.Stock/Take, with INTERNAL")
    first = hops([], records)[0]
    assert (first.method, first.start_ns, first.release, first.route) == ("a.Orders/Place", 0, None, None)
    assert page(Story("order-42", [], records, hops([], records), who))[0].startswith(
        "order-42: a.Orders/Place failed with INTERNAL after 100 ms"
    )


def test_an_error_in_a_log_is_told_when_no_call_failed() -> None:
    who = found(shop(), [log("stock", 50, "nearly out of disk", ERROR)])
    assert (who.how, who.service) == (LOGGED, "stock")
    assert "nearly out of disk" in who.why


def test_when_nothing_failed_it_says_where_the_time_went() -> None:
    who = found(shop())
    assert (who.how, who.service) == (SLOW, "stock")
    assert who.why == "stock-1 took 78 ms of 100 ms (78 %) in a.Stock/Take itself"
    alone = found(shop(stock_tells=False))
    assert (alone.service, alone.instance) == ("stock", "stock-1")
    assert alone.why == "stock-1 took 80 ms of 100 ms (80 %) in a.Stock/Take itself"
    records = [
        access(100, method="/a.Orders/Place", service="orders", instance="orders-1", duration_ms=100.0),
        access(90, method="/a.Stock/Take", service="stock", instance="stock-1", duration_ms=80.0),
    ]
    assert found([], records).why == "stock-1 took 80 ms of 100 ms for a.Stock/Take itself"


def test_the_time_between_calls_onward_is_that_of_who_makes_them_though_only_edges_tell() -> None:
    spans = [edge("orders a.Orders/Place", 0, 100, 1), edge("stock a.Stock/Take", 80, 90, 2, 1)]
    assert found(spans).why == "orders-1 took 90 ms of 100 ms (90 %) in a.Orders/Place itself"


def test_what_the_edge_answers_itself_is_of_no_story_but_its_own() -> None:
    reflection = access(5, method="/grpc.reflection.v1.ServerReflection/Info", service="mesh-edge", instance=None)
    call = access(20, method="/a.B/C", service="orders", instance="orders-1")
    assert [hop.method for hop in hops([], [reflection, call])] == ["a.B/C"]
    assert len(hops([], [reflection])) == 1


def test_many_calls_of_one_kind_are_added_up() -> None:
    spans = [span("orders a.Orders/Place", 0, 100, 1)]
    spans += [span("stock a.Stock/Look", 10 * n, 10 * n + 8, n + 2, 1) for n in range(10)]
    assert found(spans).why == "stock-1 took 80 ms of 100 ms (80 %) in a.Stock/Look itself in 10 calls"


def test_calls_that_only_the_correlation_id_links_are_linked_by_their_times() -> None:
    outer, inner = edge("orders a.Orders/Place", 0, 100, 1), edge("stock a.Stock/Take", 10, 90, 2)
    inner.trace_id = "0" * 31 + "1"
    assert [one.parent_span_id for one in nested([outer, inner])] == ["", outer.span_id]
    assert inner.parent_span_id == ""
    who = found(nested([outer, inner]))
    assert (who.service, who.why) == ("stock", "stock-1 took 80 ms of 100 ms (80 %) in a.Stock/Take itself")
    inner.end_ns = 101 * MS
    assert [one.parent_span_id for one in nested([outer, inner])] == ["", ""]


def test_nothing_is_known_of_nothing() -> None:
    assert culprit([], [], []) is None
    assert timeline([], []) == []


def test_records_and_events_are_in_their_places() -> None:
    spans = shop()
    spans[1].events = json.dumps([{"ts_ns": 5 * MS, "name": "exception", "attributes": {"exception.type": "E"}}])
    records = [
        log("orders", 3, "by its id", number=2),
        log("stock", 50, "by its time and service"),
        log("other", 50, "by its time"),
        log("late", 500, "in none"),
        log("early", -5, "before"),
    ]
    told = [
        (one.depth, one.span.name if one.span else one.record.body if one.record else (one.event or {})["name"])
        for one in timeline(spans, records)
    ]
    assert told == [
        (0, "before"),
        (0, "a.Orders/Place"),
        (1, "a.Orders/Place"),
        (2, "by its id"),
        (2, "exception"),
        (2, "a.Stock/Take"),
        (3, "a.Stock/Take"),
        (4, "by its time and service"),
        (4, "by its time"),
        (0, "in none"),
    ]


def test_the_page() -> None:
    attempt = {"mesh.instance": "stock-2", "rpc.status_code": "UNAVAILABLE", "mesh.reason": "upstream_connect_failed"}
    failed = json.dumps([{"ts_ns": 12 * MS, "name": "attempt failed", "attributes": attempt}])
    more: dict[str, Any] = {"route": "routes[0]", "route.name": "testers", "route.match": "x-a is 'b'"}
    spans = shop("INTERNAL", "INTERNAL", attempts=2, deadline_ms=200.0, events=failed, upstream_ms=75.0, **more)
    records = [log("stock", 50, "no \x1b[31m disk", ERROR, 4), access(100, 1, method="/a.Orders/Place")]
    known = hops(spans, records)
    assert len(known) == 2, "the record is of a call that has a span"
    text = page(Story("order-42", spans, records, known, culprit(spans, records, known), truncated=True))
    assert text[0].startswith("order-42: a.Orders/Place failed with INTERNAL after 100 ms, at 1970-01-01")
    assert text[1] == "4 spans, 1 trace, 1 log line, 3 services"
    assert "  stock: stock-1 failed in a.Stock/Take, with INTERNAL: no disk; it logged: no \\x1b[31m disk" in text
    at = text.index("  a.Stock/Take  INTERNAL  80 ms  (public listener of edge-1)")
    assert text[at + 1 : at + 9] == [
        "    route     to stock, by routes[0] 'testers': x-a is 'b'",
        "    endpoint  stock-1 at 10.0.0.1:1",
        "    attempts  2",
        "              1. failed: stock-2: UNAVAILABLE (upstream_connect_failed)",
        "    breaker   closed",
        "    deadline  200 ms left at the begin, 120 ms left at the end",
        "    upstream  began to answer after 75 ms",
        "    release   7 of mesh.edge",
    ]
    assert "      +0 µs |█░░░░░░░░░░░░░░░░░░░░░░█| edge  a.Orders/Place  100 ms  INTERNAL" in text
    assert "     +11 ms |  ████████████████████  |       stock-1  a.Stock/Take  78 ms  INTERNAL" in text
    assert "     +50 ms |            ·           |         ERROR stock-1: no \\x1b[31m disk" in text
    assert "There is more" in text[-1]
    assert all(line.isprintable() for line in text)


def test_the_data() -> None:
    spans = shop("INTERNAL", "INTERNAL")
    records = [log("stock", 50, "no disk", ERROR, 4)]
    known = hops(spans, records)
    data = json.loads(json.dumps(structure(Story("order-42", spans, records, known, culprit(spans, records, known)))))
    assert (data["culprit"]["service"], data["truncated"]) == ("stock", False)
    assert [(hop["method"], hop["release"], hop["breaker"]) for hop in data["edge"]] == [
        ("a.Orders/Place", 7, "closed"),
        ("a.Stock/Take", 7, "closed"),
    ]
    assert [next(iter(set(one) - {"depth"})) for one in data["timeline"]] == ["span"] * 4 + ["log"]
    assert data["timeline"][0]["span"]["start_ns"] == 0
    assert data["timeline"][0]["span"]["attributes"]["mesh.listener"] == "public"


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"duration_ms": "x", "attempts": null, "method": 5}'])
def test_what_others_wrote_does_no_harm(text: str) -> None:
    hop = from_record(LogRecord(service="mesh-edge", event_name="access", ts_ns=5, attributes=text))
    assert (hop.method, hop.duration_ms, hop.attempts) == ("", 0, 0)
    broken = edge("stock a.Stock/Take", 0, 1, 1)
    broken.events = text
    assert isinstance(hops([broken], [])[0], Hop)
    assert len(timeline([broken], [])) == 1
