"""The trace sink on every driver: what is found is what a scan of all spans finds."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mesh.api.logsink.v1 import LogBatch, TextColumn
from mesh.api.tracesink.v1 import LatencyRequest, Span, SpanBatch, TopologyRequest, TraceFilter
from mesh.testing.clock import ManualClock
from services.logsink.domain import LogSink
from services.logsink.records import LOGS
from services.sinks.errors import NotThereError
from services.sinks.messages import fields_of
from services.storage.columns.base import BatchError
from services.storage.columns.urls import open_columns
from services.tracesink.domain import TraceSink
from services.tracesink.records import SPANS
from tests.conformance_columns.spans import (
    CLIENT,
    CONSUMER,
    ERROR,
    FILTER,
    INTERNAL,
    MS,
    NOW,
    PRODUCER,
    ROW,
    SERVER,
    TRACES,
    batch,
    complete,
    failed,
    matches,
    sent_fields,
    span,
    span_id,
)

EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


@contextlib.asynccontextmanager
async def sink_on(url: str) -> Any:
    async with open_columns(url, [SPANS, LOGS]) as store:
        yield TraceSink(store, ManualClock()), LogSink(store, ManualClock())


def growing(url: str, check: Callable[[TraceSink, list[dict[str, Any]], Any], Awaitable[None]], asked: Any) -> None:
    """Store ever more spans, and check after each push."""
    with asyncio.Runner() as runner:
        context = sink_on(url)
        sink, _ = runner.run(context.__aenter__())
        stored: list[dict[str, Any]] = []

        @EXAMPLES
        @given(st.lists(ROW, max_size=8), asked)
        def grow(rows: list[dict[str, Any]], given_: Any) -> None:
            async def go() -> None:
                before = len(stored)
                if rows:
                    await sink.push(sent_fields(rows), "p", before + len(rows), before)
                stored.extend(rows)
                await check(sink, stored, given_)

            runner.run(go())

        grow()
        assert len(stored) > 40
        runner.run(context.__aexit__(None, None, None))


def test_a_search_is_what_a_scan_finds(url: str) -> None:
    async def check(sink: TraceSink, stored: list[dict[str, Any]], asked: tuple[dict[str, Any], int]) -> None:
        filter_, limit = complete(asked[0]), asked[1]
        newest: dict[str, int] = {}
        for row in stored:
            if matches(row, filter_):
                newest[row["trace_id"]] = max(newest.get(row["trace_id"], 0), row["start_ns"])
        wanted = sorted(newest, key=lambda trace_id: (newest[trace_id], trace_id), reverse=True)
        found: list[str] = []
        cursor = ""
        while True:
            page = await sink.find(TraceFilter(**filter_), limit, cursor)
            assert len(page.traces) <= limit
            for trace in page.traces:
                whole = [row for row in stored if row["trace_id"] == trace.trace_id]
                assert trace.spans == len(whole)
                assert trace.errors == sum(map(failed, whole))
                assert trace.start_ns == min(row["start_ns"] for row in whole)
                assert trace.start_ns + trace.duration_ns == max(row["end_ns"] for row in whole)
                assert set(trace.services) == {row["service"] for row in whole}
                assert bool(trace.culprit_name) == bool(trace.errors)
            found += [trace.trace_id for trace in page.traces]
            if not (cursor := page.cursor):
                break
        assert found == wanted

    growing(url, check, st.tuples(FILTER, st.integers(1, 3)))


def test_self_times_and_latencies_are_what_a_scan_finds(url: str) -> None:
    def same(one: dict[str, Any], known: list[dict[str, Any]]) -> tuple[str, str]:
        alone = one["service"] == "mesh-edge" and one["peer_service"] and not below(one, known)
        return one["peer_service" if alone else "service"], one["rpc_method"] or one["name"]

    async def check(sink: TraceSink, stored: list[dict[str, Any]], asked: dict[str, Any]) -> None:
        filter_ = complete(asked, ranged=True)
        reply = await sink.latency(LatencyRequest(filter=TraceFilter(**filter_)))
        start, end = filter_["start_ns"], filter_["end_ns"]
        assert reply.spans == sum(start <= row["start_ns"] < end for row in stored)
        assert not reply.truncated
        known = [row for row in stored if start <= row["start_ns"] < end + 3600 * 10**9]
        wanted: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in stored:
            if matches(row, filter_):
                wanted.setdefault(same(row, known), []).append(row)
        assert {(row.service, row.method) for row in reply.rows} == wanted.keys()
        assert [row.self_ns for row in reply.rows] == sorted((row.self_ns for row in reply.rows), reverse=True)
        for told in reply.rows:
            group = wanted[told.service, told.method]
            whole = [one["end_ns"] - one["start_ns"] for one in group]
            alone = [alone_of(one, known) for one in group]
            assert (told.calls, told.errors) == (len(group), sum(map(failed, group)))
            assert (told.total_ns, told.self_ns) == (sum(whole), sum(alone))
            shown = (told.p50_ns, told.p95_ns, told.p99_ns, told.self_p95_ns)
            quantiles = (*np.quantile(whole, (0.5, 0.95, 0.99)), np.quantile(alone, 0.95))
            assert np.allclose(shown, quantiles, rtol=0, atol=1)

    growing(url, check, FILTER)


def below(row: dict[str, Any], known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the children of a span; of spans with one id the first is the parent."""
    by_time = sorted(enumerate(known), key=lambda pair: (pair[1]["start_ns"], -pair[1]["end_ns"], pair[0]))
    alike = [one for _, one in by_time if (one["trace_id"], one["span_id"]) == (row["trace_id"], row["span_id"])]
    if alike[0] is not row:
        return []
    ids = row["trace_id"], row["span_id"]
    return [one for one in known if one is not row and (one["trace_id"], one["parent_span_id"]) == ids]


def alone_of(row: dict[str, Any], known: list[dict[str, Any]]) -> int:
    """Return for how long nothing below a span was under way."""
    step = 50 * 10**9
    covered = set()
    for child in below(row, known):
        first, last = max(child["start_ns"], row["start_ns"]), min(child["end_ns"], row["end_ns"])
        covered |= set(range(first, last, step))
    return int(row["end_ns"] - row["start_ns"]) - step * len(covered)


async def test_a_span_comes_back_whole(url: str) -> None:
    sent: dict[str, Any] = span(
        *(2, 1, 0, 5),
        name="shop.v1.Orders/Get",
        kind=CLIENT,
        status=ERROR,
        status_message="it broke 🦆",
        service="orders",
        instance="orders-1",
        version="2",
        scope="app",
        correlation_id="order-7",
        rpc_method="shop.v1.Orders/Get",
        rpc_status_code="UNAVAILABLE",
        peer_service="payments",
        trace_state="a=b",
        flags=1,
        dropped=3,
        attributes='{"a": {"b": [1, 2.5, null]}}',
        events='[{"ts_ns": 5, "name": "x", "attributes": {}}]',
        links='[{"trace_id": "a", "span_id": "b"}]',
    )
    async with sink_on(url) as (sink, _):
        await sink.push(sent_fields([sent]), "p", 1, 0)
        reply = await sink.trace(TRACES[0])
        with pytest.raises(NotThereError, match=TRACES[1]):
            await sink.trace(TRACES[1])
    (found,) = reply.spans
    for name in ("attributes", "events", "links"):
        assert json.loads(getattr(found, name)) == json.loads(sent[name])
        sent[name] = getattr(found, name)
    assert found == Span(**sent)
    assert [(one.span_id, one.start_ns, one.end_ns) for one in reply.critical_path] == [
        (span_id(2), sent["start_ns"], sent["end_ns"])
    ]


async def test_long_names_are_cut(url: str) -> None:
    names = ["ü" * 8192, "short", "x" * 9000]
    async with sink_on(url) as (sink, _):
        spans = [span(n, name=name, status_message=names[0]) for n, name in enumerate(names, 1)]
        await sink.push(sent_fields(spans), "p", 1, 0)
        found = (await sink.trace(TRACES[0])).spans
    assert [one.name for one in found] == [names[0][:2048], "short", names[2][:2048]]
    assert found[0].status_message == names[0][:2048]


async def test_what_was_sent_twice_is_there_once(url: str) -> None:
    async with sink_on(url) as (sink, _):
        await sink.push(sent_fields([span(1)]), "p", 1, 0)
        await sink.push(sent_fields([span(1), span(2, 1)]), "q", 1, 0)
        assert [one.span_id for one in (await sink.trace(TRACES[0])).spans] == [span_id(1), span_id(2)]


async def test_a_large_trace_and_a_large_span(url: str) -> None:
    async with sink_on(url) as (sink, _):
        many = [span(n, n - 1, start=n, end=30_000 - n, name="x") for n in range(1, 10_051)]
        await sink.push(sent_fields(many), "p", 1, 0)
        reply = await sink.trace(TRACES[0])
        assert (len(reply.spans), reply.truncated) == (10_000, True)
        assert reply.ByteSize() < 4 << 20
        page = await sink.find(TraceFilter(trace_id=TRACES[0]), 0, "")
        assert page.traces[0].spans == 10_050
        wide = [
            span(n, trace_id=TRACES[1], start=n, end=n, attributes=json.dumps({"n": "x" * 1_000_000}))
            for n in (1, 2, 3, 4)
        ]
        await sink.push(sent_fields(wide), "p", 2, 1)
        reply = await sink.trace(TRACES[1])
        assert (len(reply.spans), reply.truncated) == (3, True)


async def test_a_conversation_is_what_bears_its_id_and_what_those_traces_did(url: str) -> None:
    spans = [
        span(1, start=0, name="bears it", correlation_id="order-7"),
        span(2, 1, start=2, name="knows OpenTelemetry alone"),
        span(3, 1, start=3, name="of another", correlation_id="order-8"),
        span(4, start=6, name="later, another trace", trace_id=TRACES[1], correlation_id="order-7"),
        span(5, start=1, name="a stranger's", trace_id=TRACES[2]),
    ]
    async with sink_on(url) as (sink, logs):
        await sink.push(sent_fields(spans), "p", 1, 0)
        # The same producer may push logs: they are counted for themselves.
        await logs.push(
            fields_of(
                LogBatch(
                    ts_ns=[NOW + MS, NOW + 4 * MS, NOW + 5 * MS],
                    body=TextColumn(values=["first", "by its trace", "a stranger's"]),
                    correlation_id=TextColumn(values=["order-7", "", ""]),
                    trace_id=TextColumn(values=["", TRACES[1], TRACES[2]]),
                )
            ),
            *("p", 1, 0),
        )
        reply = await sink.correlation("order-7", 0)
        cut = await sink.correlation("order-7", 2)
        nothing = await sink.correlation("order-9", 0)
    shown = [item.span.name or item.record.body for item in reply.items]
    assert shown == ["bears it", "first", "knows OpenTelemetry alone", "by its trace", "later, another trace"]
    assert not reply.truncated
    assert [item.span.name or item.record.body for item in cut.items] == shown[:2]
    assert cut.truncated
    assert not nothing.items


def call(
    number: int, caller: str, callee: str, ms: tuple[int, int], parent: int = 0, **more: Any
) -> list[dict[str, Any]]:
    """Return a client's and a server's span."""
    start, end = ms
    bad = {"rpc_status_code": more["code"]} if "code" in more else {}
    return [
        span(number, parent, start, end, service=caller, kind=CLIENT, name=f"{callee}/Do", **bad),
        span(number + 1, number, start + 1, end - 1, service=callee, kind=SERVER, name=f"{callee}/Do", **bad),
    ]


async def edges(sink: TraceSink, **more: Any) -> dict[tuple[str, str, bool], tuple[int, int, int]]:
    """Return of each edge the calls, errors and median in ms."""
    reply = await sink.topology(TopologyRequest(start_ns=NOW, end_ns=NOW + 10**9, **more))
    assert not reply.truncated
    return {
        (edge.caller, edge.callee, edge.messages): (edge.calls, edge.errors, edge.p50_ns // MS) for edge in reply.edges
    }


async def test_who_calls_whom(url: str) -> None:
    spans = [
        *call(1, "shop", "orders", (0, 20)),
        *call(3, "orders", "payments", (2, 12), 2, code="UNAVAILABLE"),
        *call(5, "orders", "payments", (12, 16), 2),
        # A database that sends no spans, and one call's tries, of which the first failed to connect.
        span(7, 2, 16, 18, service="orders", kind=CLIENT, peer_service="postgresql"),
        span(8, 2, 18, 19, service="orders", kind=CLIENT, peer_service="stock", rpc_status_code="OK"),
        span(9, 8, 18, 19, service="orders", kind=CLIENT, peer_service="stock", rpc_status_code="UNAVAILABLE"),
        # No span of the caller's own: the callee tells.
        span(10, 2, 3, 9, service="mail", kind=SERVER, status=ERROR),
        span(11, 2, 3, 9, service="orders", kind=INTERNAL),
    ]
    async with sink_on(url) as (sink, _):
        await sink.push(sent_fields(spans), "p", 1, 0)
        found = await edges(sink)
        assert found == {
            ("shop", "orders", False): (1, 0, 20),
            ("orders", "payments", False): (2, 1, 7),
            ("orders", "postgresql", False): (1, 0, 2),
            ("orders", "stock", False): (1, 1, 1),
            ("orders", "mail", False): (1, 1, 6),
        }
        assert (await edges(sink, service="shop")).keys() == {("shop", "orders", False)}


async def test_calls_through_the_edge_are_their_callers(url: str) -> None:
    def through(first: int, parent: int, service: str, **more: Any) -> list[dict[str, Any]]:
        """Return what the edge tells of a call: that it came, and its tries."""
        return [
            span(first, parent, 1, 19, service="mesh-edge", kind=SERVER),
            span(first + 1, first, 2, 18, service="mesh-edge", kind=CLIENT, peer_service=service),
            span(first + 2, first + 1, 2, 5, service="mesh-edge", kind=CLIENT, peer_service=service, status=ERROR),
            span(first + 3, first + 1, 6, 18, service="mesh-edge", kind=CLIENT, peer_service=service, **more),
        ]

    spans = [
        # From outside.
        *through(1, 0, "shop"),
        span(5, 3, 2, 5, service="shop", kind=SERVER, status=ERROR),
        span(6, 4, 6, 18, service="shop", kind=SERVER),
        # From a service; two tries are one call, as the caller saw it.
        span(10, 6, 0, 20, service="shop", kind=CLIENT, peer_service="orders"),
        *through(11, 10, "orders"),
        span(15, 13, 7, 8, service="orders", kind=SERVER),
        span(16, 14, 8, 17, service="orders", kind=SERVER),
        # What the edge alone tells of, as it does: by one span.
        span(17, 0, 0, 7, service="mesh-edge", kind=SERVER, peer_service="alone", rpc_status_code="NOT_FOUND"),
        # To one that tells nothing, and to one that the edge did not let through.
        span(20, 6, 0, 30, service="shop", kind=CLIENT, peer_service="legacy"),
        *through(21, 20, "legacy"),
        span(30, 6, 0, 2, service="shop", kind=CLIENT, peer_service="closed", rpc_status_code="UNAVAILABLE"),
        span(31, 30, 0, 1, service="mesh-edge", kind=SERVER, rpc_status_code="UNAVAILABLE"),
    ]
    async with sink_on(url) as (sink, _):
        await sink.push(sent_fields(spans), "p", 1, 0)
        assert await edges(sink) == {
            ("mesh-edge", "shop", False): (1, 0, 18),
            ("shop", "orders", False): (1, 0, 20),
            ("shop", "legacy", False): (1, 0, 30),
            ("shop", "closed", False): (1, 1, 2),
            ("mesh-edge", "alone", False): (1, 1, 7),
        }
        shown = await edges(sink, proxies=True)
    assert shown["shop", "mesh-edge", False][0] == 3
    assert shown["mesh-edge", "orders", False][0] == 2


async def test_messages_by_parents_and_by_links(url: str) -> None:
    def link(*ids: int) -> str:
        return json.dumps([{"trace_id": TRACES[0], "span_id": span_id(number)} for number in ids])

    spans = [
        span(1, 0, 0, 2, service="orders", kind=PRODUCER),
        span(2, 0, 1, 3, service="orders", kind=PRODUCER),
        # One that dealt with both, in a trace of its own; one whose parent and link are the same.
        span(3, 0, 5, 10, service="mail", kind=CONSUMER, trace_id=TRACES[1], links=link(1, 2, 99)),
        span(4, 2, 5, 7, service="stock", kind=CONSUMER, links=link(2), status=ERROR),
        # What it received before it dealt with it is no message to itself.
        span(5, 4, 6, 7, service="stock", kind=CONSUMER),
    ]
    async with sink_on(url) as (sink, _):
        await sink.push(sent_fields(spans), "p", 1, 0)
        assert await edges(sink) == {
            ("orders", "mail", True): (2, 0, 9),
            ("orders", "stock", True): (1, 1, 6),
        }


async def test_which_service_caused_the_fault_and_which_makes_the_latency(url: str) -> None:
    """The questions that traces are there for."""
    spans: list[dict[str, Any]] = []
    for number in range(20):
        bad = number % 5 == 0
        code: dict[str, Any] = {"code": "INTERNAL"} if bad else {}
        one = [
            *call(1, "shop", "orders", (0, 100), **code),
            *call(3, "orders", "stock", (5, 10), 2),
            *call(5, "orders", "payments", (10, 95), 2, **code),
        ]
        more = {"trace_id": f"{number + 1:032x}", "attributes": json.dumps({"order.id": f"o-{number}"})}
        spans += [row | more for row in one]
    async with sink_on(url) as (sink, _):
        await sink.push(sent_fields(spans), "p", 1, 0)
        window: dict[str, Any] = {"start_ns": NOW, "end_ns": NOW + 10**9}
        bad_ones = await sink.find(TraceFilter(errors=True, **window), 100, "")
        assert len(bad_ones.traces) == 4
        assert {trace.culprit_service for trace in bad_ones.traces} == {"payments"}
        assert {trace.errors for trace in bad_ones.traces} == {4}
        slow = await sink.latency(LatencyRequest(filter=TraceFilter(**window)))
        assert (slow.rows[0].service, slow.rows[0].method) == ("payments", "payments/Do")
        assert slow.rows[0].self_ns == 20 * 83 * MS
        (order,) = (await sink.find(TraceFilter(attributes={"order.id": "o-7"}, **window), 0, "")).traces
        assert (order.root_service, list(order.services)) == ("shop", ["shop", "orders", "stock", "payments"])
        path = (await sink.trace(order.trace_id)).critical_path
    longest = max(path, key=lambda segment: segment.end_ns - segment.start_ns)
    assert longest.span_id == span_id(6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"trace_id": TextColumn(values=["AB" * 16])}, "trace_id"),
        ({"trace_id": TextColumn(values=["0" * 32])}, "trace_id"),
        ({"span_id": TextColumn(values=[""])}, "span_id"),
        ({"parent_span_id": TextColumn(values=["ab"])}, "parent_span_id"),
        ({"kind": [6]}, "kind"),
        ({"status": [3]}, "status"),
        ({"end_ns": [1, 2]}, "end_ns"),
        ({"attributes": TextColumn(values=["[]"])}, "attributes"),
        ({"events": TextColumn(values=["{}"])}, "events"),
        ({"links": TextColumn(values=['[{"a"'])}, "JSON|json"),
        ({"attributes": TextColumn(values=['{"a":"' + "x" * (1 << 20) + '"}'])}, "attributes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_malformed_batch_is_refused(url: str, change: dict[str, Sequence[Any]], says: str) -> None:
    whole = batch([span(1)])
    fields: dict[str, Any] = {field.name: value for field, value in whole.ListFields()} | change
    async with sink_on(url) as (sink, _):
        with pytest.raises(BatchError, match=says):
            await sink.push(fields_of(SpanBatch(**fields)), "p", 1, 0)
        assert sink.counters.rejected_batches == 1
        assert await sink.durable_seq("p") == 0
        await sink.push(fields_of(whole), "p", 1, 0)
