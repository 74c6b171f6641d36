"""The trace sink over gRPC: what it acknowledges, pushes back and refuses, and OpenTelemetry's messages."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from mesh.api.logsink.v1 import TextColumn
from mesh.api.tracesink.v1 import (
    FindTracesRequest,
    GetCorrelationRequest,
    GetTraceRequest,
    LatencyRequest,
    PushRequest,
    SpanBatch,
    TopologyRequest,
    TraceFilter,
    TraceSinkStub,
)
from mesh.clock import SystemClock
from services.host import Host
from services.logsink.records import LOGS
from services.names import OTLP_TRACES, TRACE_SINK
from services.storage.columns.base import Options
from services.storage.columns.urls import open_columns
from services.tracesink.domain import TraceSink
from services.tracesink.records import SPANS
from services.tracesink.servicer import hosted

NOW = SystemClock.wall_ns()
ALL = TraceFilter(start_ns=NOW - 10**12, end_ns=NOW + 10**12)
TRACE = "0af7651916cd43dd8448eb211c80319c"


@contextlib.asynccontextmanager
async def serving(folder: Path, **options: int) -> AsyncIterator[tuple[Any, TraceSink]]:
    async with open_columns(f"duckdb://{folder}/spans.db", [SPANS, LOGS], Options(**options)) as store:
        sink = TraceSink(store)
        host = Host("127.0.0.1:0", hosted(sink), option="--listen", max_receive_bytes=64 << 20)
        address = await host.start()
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                yield channel, sink
        finally:
            await host.stop(0)


def trace_sink(channel: Any) -> Any:
    return TraceSinkStub(channel)


def otlp(channel: Any) -> Any:
    return TraceServiceStub(channel)  # type: ignore[no-untyped-call]


def batch(seq: int, *names: str) -> SpanBatch:
    return SpanBatch(
        start_ns=[NOW + n for n, _ in enumerate(names)],
        end_ns=[NOW + 10] * len(names),
        trace_id=TextColumn(values=[f"{seq:032x}"]),
        span_id=TextColumn(values=[f"{n + 1:016x}" for n, _ in enumerate(names)]),
        name=TextColumn(values=names),
        service=TextColumn(values=["orders"]),
    )


def push(seq: int, *names: str, after: int | None = None) -> PushRequest:
    return PushRequest(producer="p", seq=seq, after=seq - 1 if after is None else after, batch=batch(seq, *names))


async def stored(channel: Any, traces: int) -> list[str]:
    found: list[str] = []
    for number in range(1, traces + 1):
        with contextlib.suppress(grpc.aio.AioRpcError):
            reply = await trace_sink(channel).GetTrace(GetTraceRequest(trace_id=f"{number:032x}"))
            found += [span.name for span in reply.spans]
    return found


async def failure(call: Any) -> grpc.aio.AioRpcError:
    async def run() -> None:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await run()
    return failed.value


async def test_a_producer_asks_where_it_was_and_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as (channel, _):
        requests = [PushRequest(producer="p"), push(1, "a"), push(2, "b"), push(2, "b"), push(3, "c")]
        replies = [reply.durable_seq async for reply in trace_sink(channel).Push(iter(requests))]
        assert replies[0] == 0
        assert sorted(replies) == replies
        assert replies[-1] == 3
    async with serving(tmp_path) as (channel, sink):
        again = [PushRequest(producer="p"), push(3, "c"), push(4, "d")]
        replies = [reply.durable_seq async for reply in trace_sink(channel).Push(iter(again))]
        assert (replies[0], replies[-1]) == (3, 4)
        assert await stored(channel, 4) == ["a", "b", "c", "d"]
        assert sink.counters.spans == 1


async def test_a_malformed_batch_is_said_and_the_stream_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as (channel, sink):
        broken = push(2, "b")
        broken.batch.span_id.values[0] = "not an id"
        call = trace_sink(channel).Push()
        await call.write(push(1, "a"))
        assert (await call.read()).durable_seq == 1
        await call.write(broken)
        refused = await call.read()
        assert (refused.durable_seq, "span_id: 'not an id'" in refused.rejected) == (1, True)
        await call.write(push(3, "c", after=1))
        assert (await call.read()).durable_seq == 3
        await call.done_writing()
        assert await stored(channel, 3) == ["a", "c"]
        assert sink.counters.rejected_batches == 1


async def test_what_does_not_fit_is_pushed_back_with_a_time(tmp_path: Path) -> None:
    async with serving(tmp_path, queue_bytes=100_000) as (channel, _):
        many = [push(seq, *(str(n) * 4_000 for n in range(10))) for seq in range(1, 10)]
        error = await failure(trace_sink(channel).Push(iter(many)))
        while error.code() is grpc.StatusCode.INTERNAL:  # what grpc.aio's client says when it is refused as it sends
            error = await failure(trace_sink(channel).Push(iter(many)))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        status = rpc_status.from_call(cast("Any", error))
        assert status is not None
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() > 0
        # Whoever sends again until it is acknowledged has it there once.
        done = 0
        while done < 9:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for reply in trace_sink(channel).Push(iter([PushRequest(producer="p"), *many[done:]])):
                    done = max(done, reply.durable_seq)
        assert len(await stored(channel, 9)) == 90


@pytest.mark.parametrize(
    ("method", "data", "says"),
    [
        ("Push", PushRequest(seq=1, batch=batch(1, "a")).SerializeToString(), "producer"),
        ("Push", b"\xff\xff", "PushRequest"),
        ("GetTrace", GetTraceRequest(trace_id="xyz").SerializeToString(), "hexadecimal"),
        ("GetTrace", GetTraceRequest(trace_id="0" * 32).SerializeToString(), "no trace id"),
        ("FindTraces", FindTracesRequest().SerializeToString(), "time range"),
        ("FindTraces", FindTracesRequest(filter=ALL, limit=1001).SerializeToString(), "1000"),
        ("FindTraces", FindTracesRequest(filter=ALL, cursor="nonsense").SerializeToString(), "cursor"),
        ("FindTraces", FindTracesRequest(filter=TraceFilter(trace_id="a")).SerializeToString(), "trace_id"),
        (
            "FindTraces",
            FindTracesRequest(filter=TraceFilter(correlation_id="a", codes=["LATE"])).SerializeToString(),
            "LATE",
        ),
        (
            "FindTraces",
            FindTracesRequest(
                filter=TraceFilter(correlation_id="a", min_duration_ns=2, max_duration_ns=1)
            ).SerializeToString(),
            "duration",
        ),
        (
            "FindTraces",
            FindTracesRequest(filter=TraceFilter(correlation_id="a", attributes={"$": ""})).SerializeToString(),
            "name",
        ),
        ("GetCorrelation", GetCorrelationRequest().SerializeToString(), "correlation_id"),
        ("GetCorrelation", GetCorrelationRequest(correlation_id="a\0").SerializeToString(), "character 0"),
        ("GetCorrelation", GetCorrelationRequest(correlation_id="a", limit=5001).SerializeToString(), "5000"),
        ("Topology", TopologyRequest().SerializeToString(), "time range"),
        ("Topology", TopologyRequest(start_ns=2, end_ns=1).SerializeToString(), "later"),
        ("Latency", LatencyRequest(filter=TraceFilter(correlation_id="a")).SerializeToString(), "time range"),
    ],
    # The bytes hold times, which differ from process to process.
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_makes_no_sense_is_said(tmp_path: Path, method: str, data: bytes, says: str) -> None:
    async with serving(tmp_path) as (channel, _):
        path = f"/{TRACE_SINK}/{method}"
        call = channel.stream_stream(path)(iter([data])) if method == "Push" else channel.unary_unary(path)(data)
        error = await failure(call)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert says in (error.details() or "")


async def test_a_trace_that_is_not_there(tmp_path: Path) -> None:
    async with serving(tmp_path) as (channel, _):
        error = await failure(trace_sink(channel).GetTrace(GetTraceRequest(trace_id=TRACE)))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert TRACE in (error.details() or "")


def export(*spans: Span, **resource: str) -> ExportTraceServiceRequest:
    group = ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])
    group.scope_spans[0].scope.name = "app.orders"
    for key, value in {
        "service.name": "orders",
        "service.instance.id": "orders-1",
        "host.name": "h",
        **resource,
    }.items():
        group.resource.attributes.add(key=key, value=AnyValue(string_value=value))
    return ExportTraceServiceRequest(resource_spans=[group])


def span(span_id: int = 1, parent: int = 0, *, name: str = "span", **attributes: str | int) -> Span:
    made = Span(
        trace_id=bytes.fromhex(TRACE),
        span_id=span_id.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        name=name,
        start_time_unix_nano=NOW,
        end_time_unix_nano=NOW + 5,
    )
    for key, value in attributes.items():
        one = AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
        made.attributes.add(key=key.replace("__", "."), value=one)
    return made


async def test_opentelemetrys_spans_become_ours(tmp_path: Path) -> None:
    sent = span(2, 1, name="shop.v1.Orders/Get", correlation_id="order-7", peer__service="payments", order__id="7")
    sent.kind = Span.SPAN_KIND_CLIENT
    sent.trace_state = "a=b"
    sent.flags = 1
    sent.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message="it broke"))
    sent.dropped_attributes_count = sent.dropped_events_count = sent.dropped_links_count = 1
    sent.attributes.add(key="rpc.method", value=AnyValue(string_value="shop.v1.Orders/Get"))
    sent.attributes.add(key="rpc.status_code", value=AnyValue(string_value="UNAVAILABLE"))
    event = sent.events.add(time_unix_nano=NOW + 1, name="exception")
    event.attributes.add(key="exception.message", value=AnyValue(string_value="no"))
    link = sent.links.add(trace_id=bytes(range(16)), span_id=bytes(range(8)))
    link.attributes.add(key="n", value=AnyValue(int_value=1))
    async with serving(tmp_path) as (channel, _):
        reply = await otlp(channel).Export(export(sent), compression=grpc.Compression.Gzip)
        assert not reply.HasField("partial_success")
        (found,) = (await trace_sink(channel).GetTrace(GetTraceRequest(trace_id=TRACE))).spans
    assert (found.start_ns, found.end_ns) == (NOW, NOW + 5)
    assert (found.trace_id, found.span_id, found.parent_span_id) == (TRACE, f"{2:016x}", f"{1:016x}")
    assert (found.name, found.kind, found.status, found.status_message) == ("shop.v1.Orders/Get", 3, 2, "it broke")
    assert (found.service, found.instance, found.scope) == ("orders", "orders-1", "app.orders")
    assert (found.correlation_id, found.rpc_method) == ("order-7", "shop.v1.Orders/Get")
    assert (found.rpc_status_code, found.peer_service) == ("UNAVAILABLE", "payments")
    assert (found.trace_state, found.flags, found.dropped) == ("a=b", 1, 3)
    assert json.loads(found.attributes) == {
        "resource.host.name": "h",
        "correlation_id": "order-7",
        "peer.service": "payments",
        "order.id": "7",
        "rpc.method": "shop.v1.Orders/Get",
        "rpc.status_code": "UNAVAILABLE",
    }
    assert json.loads(found.events) == [
        {"ts_ns": NOW + 1, "name": "exception", "attributes": {"exception.message": "no"}}
    ]
    assert json.loads(found.links) == [
        {"trace_id": bytes(range(16)).hex(), "span_id": bytes(range(8)).hex(), "attributes": {"n": 1}}
    ]


@pytest.mark.parametrize(
    ("attributes", "resource", "promoted"),
    [
        (
            {"rpc__service": "shop.v1.Orders", "rpc__method": "Get", "rpc__grpc__status_code": 14},
            {},
            (TRACE, "shop.v1.Orders/Get", "UNAVAILABLE", ""),
        ),
        (
            {"rpc__method": "/shop.v1.Orders/Get", "rpc__response__status_code": "OK"},
            {},
            (TRACE, "shop.v1.Orders/Get", "OK", ""),
        ),
        ({"rpc__grpc__status_code": "5", "service__peer__name": "stock"}, {}, (TRACE, "", "NOT_FOUND", "stock")),
        ({"rpc__grpc__status_code": 99, "mesh__correlation_id": "c"}, {}, ("c", "", "UNKNOWN", "")),
        ({"rpc__grpc__status_code": "--5", "rpc__connect_rpc__error_code": "internal"}, {}, (TRACE, "", "--5", "")),
        ({"rpc__connect_rpc__error_code": "internal"}, {}, (TRACE, "", "INTERNAL", "")),
        ({"db__system__name": "postgresql"}, {"correlation.id": "c"}, ("c", "", "", "postgresql")),
        ({"correlation__id": "own"}, {"correlation_id": "c"}, ("own", "", "", "")),
        ({"baggage__correlation_id": "b" * 300}, {}, ("b" * 255, "", "", "")),
    ],
    ids=str,
)
async def test_old_and_new_conventions_say_the_same(
    tmp_path: Path, attributes: dict[str, Any], resource: dict[str, str], promoted: tuple[str, ...]
) -> None:
    async with serving(tmp_path) as (channel, _):
        await otlp(channel).Export(export(span(**attributes), **resource))
        (found,) = (await trace_sink(channel).GetTrace(GetTraceRequest(trace_id=TRACE))).spans
    assert (found.correlation_id, found.rpc_method, found.rpc_status_code, found.peer_service) == promoted


async def test_opentelemetrys_messages_that_are_bad(tmp_path: Path) -> None:
    async with serving(tmp_path) as (channel, sink):
        raw = channel.unary_unary(f"/{OTLP_TRACES}/Export")
        invalid = export(span(name="name")).SerializeToString().replace(b"name", b"n\xff\xfee", 2)
        with_status = span()
        with_status.status.message = "m"
        broken = export(with_status).SerializeToString().replace(b"\x12\x01m", b"\x12\x05m")
        for data in (invalid, b"\x0a\xff", broken):
            error = await failure(raw(data))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "ExportTraceServiceRequest" in (error.details() or "")
        assert sink.counters.undecodable == 3
        without = [Span(name="no ids"), span(1), span(2)]
        without[1].trace_id = bytes(16)
        without[2].parent_span_id = b"short"
        reply = await otlp(channel).Export(export(*without, span(3, name="good")))
        assert reply.partial_success.rejected_spans == sink.counters.rejected_spans == 3
        assert "trace id" in reply.partial_success.error_message
        huge = span(4, name="x" * 10_000, text="ü" * (1 << 20))
        reply = await otlp(channel).Export(export(huge), compression=grpc.Compression.Gzip)
        assert "stored cut" in reply.partial_success.error_message
        assert reply.partial_success.rejected_spans == 0
        await otlp(channel).Export(ExportTraceServiceRequest())
        spans = (await trace_sink(channel).GetTrace(GetTraceRequest(trace_id=TRACE))).spans
        assert [one.name[:4] for one in spans] == ["good", "xxxx"]
        # Counted after decompression.
        too_much = export(*[span(text="x" * 1_000_000)] * 68)
        error = await failure(otlp(channel).Export(too_much, compression=grpc.Compression.Gzip))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert sink.counters.spans == 2


async def test_absurd_times_are_mended_and_said(tmp_path: Path) -> None:
    year = 365 * 86_400 * 10**9
    absurd = {
        "ends before": (NOW, NOW - 1),
        "1970": (5, 1_000_005),
        "2200": (230 * year, 230 * year + 1_000_000),
        "no end": (NOW, 0),
        "ends in 2200": (NOW, 230 * year),
        "beyond": (2**64 - 1, 2**64 - 1),
    }
    spans = []
    for number, (name, (start, end)) in enumerate(absurd.items(), 1):
        spans.append(span(number, name=name))
        spans[-1].start_time_unix_nano, spans[-1].end_time_unix_nano = start, end
    async with serving(tmp_path) as (channel, sink):
        await otlp(channel).Export(export(*spans))
        found = {one.name: one for one in (await trace_sink(channel).GetTrace(GetTraceRequest(trace_id=TRACE))).spans}
        assert sink.counters.absurd_times == len(found) == 6
    for name, (start, end) in absurd.items():
        said = json.loads(found[name].attributes)
        assert (said["mesh.time_ns"], said["mesh.end_ns"]) == (min(start, 2**63 - 1), min(end, 2**63 - 1))
        assert found[name].end_ns >= found[name].start_ns >= NOW - 10_000_000
    lasted = {name: one.end_ns - one.start_ns for name, one in found.items()}
    assert lasted == dict.fromkeys(absurd, 0) | {"1970": 1_000_000, "2200": 1_000_000}
