"""The log sink over gRPC: what it acknowledges, pushes back and refuses, and OpenTelemetry's messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs

from mesh.api.logsink.v1 import (
    Filter,
    HistogramRequest,
    LogBatch,
    LogSinkStub,
    PushRequest,
    SearchRequest,
    TailRequest,
    TextColumn,
)
from mesh.clock import SystemClock
from services.host import Host, Hosted
from services.logsink.domain import LogSink
from services.logsink.records import LOGS
from services.logsink.servicer import GrpcLogSink
from services.names import LOG_SINK, OTLP_LOGS
from services.storage.columns.base import Options
from services.storage.columns.urls import open_columns

NOW = SystemClock.wall_ns()
ALL = Filter(start_ns=NOW - 10**12, end_ns=NOW + 10**12)


@contextlib.asynccontextmanager
async def serving(folder: Path, **options: int) -> AsyncIterator[tuple[Any, LogSink]]:
    async with open_columns(f"duckdb://{folder}/logs.db", [LOGS], Options(**options)) as store:
        sink = LogSink(store)
        service = GrpcLogSink(sink)
        hosted = [Hosted(LOG_SINK, service.add_to), Hosted(OTLP_LOGS, service.add_otlp_to)]
        host = Host("127.0.0.1:0", hosted, option="--listen", max_receive_bytes=64 << 20)
        address = await host.start()
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                yield channel, sink
        finally:
            await host.stop(0)


def log_sink(channel: Any) -> Any:
    return LogSinkStub(channel)


def otlp(channel: Any) -> Any:
    return LogsServiceStub(channel)  # type: ignore[no-untyped-call]


def batch(*bodies: str) -> LogBatch:
    return LogBatch(ts_ns=[NOW] * len(bodies), body=TextColumn(values=bodies))


def push(seq: int, *bodies: str, after: int | None = None) -> PushRequest:
    return PushRequest(producer="p", seq=seq, after=seq - 1 if after is None else after, batch=batch(*bodies))


async def stored(channel: Any) -> list[str]:
    bodies: list[str] = []
    request = SearchRequest(filter=ALL, limit=5000, oldest_first=True)
    while True:
        page = await log_sink(channel).Search(request)
        bodies += [record.body for record in page.records]
        request.cursor = page.cursor
        if not page.cursor:
            return bodies


async def test_a_producer_asks_where_it_was_and_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as (channel, sink):
        stub = log_sink(channel)
        replies = [reply.durable_seq async for reply in stub.Push(iter([PushRequest(producer="p")]))]
        assert replies == [0]
        requests = [push(1, "a"), push(2, "b"), push(2, "b"), push(3, "c")]
        replies = [reply.durable_seq async for reply in stub.Push(iter(requests))]
        assert sorted(replies) == replies
        assert replies[-1] == 3
    async with serving(tmp_path) as (channel, sink):
        stub = log_sink(channel)
        again = [PushRequest(producer="p"), push(3, "c"), push(4, "d")]
        replies = [reply.durable_seq async for reply in stub.Push(iter(again))]
        # One reply may stand for several batches.
        assert replies[0] == 3
        assert replies[-1] == 4
        assert sorted(replies) == replies
        assert await stored(channel) == ["a", "b", "c", "d"]
        assert sink.counters.records == 1


async def test_a_malformed_batch_is_said_and_the_stream_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as (channel, _):
        broken = push(2, "b")
        broken.batch.attributes.values.append("{")
        call = log_sink(channel).Push()
        await call.write(push(1, "a"))
        assert (await call.read()).durable_seq == 1
        await call.write(broken)
        refused = await call.read()
        assert (refused.durable_seq, "JSON" in refused.rejected) == (1, True)
        await call.write(push(3, "c", after=1))
        assert (await call.read()).durable_seq == 3
        await call.done_writing()
        assert await stored(channel) == ["a", "c"]


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


async def test_a_hole_ends_the_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as (channel, _):
        error = await failure(log_sink(channel).Push(iter([push(1, "a"), push(3, "c"), push(4, "d")])))
        assert error.code() is grpc.StatusCode.ABORTED
        assert await stored(channel) == ["a"]


async def test_what_does_not_fit_is_pushed_back_with_a_time(tmp_path: Path) -> None:
    async with serving(tmp_path, queue_bytes=100_000) as (channel, sink):
        texts = ["x" * 60_000] * 2
        many = [push(seq, *texts) for seq in range(1, 6)]
        error = await failure(log_sink(channel).Push(iter(many)))
        while error.code() is grpc.StatusCode.INTERNAL:  # what grpc.aio's client says when it is refused as it sends
            error = await failure(log_sink(channel).Push(iter(many)))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        status = rpc_status.from_call(cast("Any", error))
        assert status is not None
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() > 0
        # Whoever sends again until it is acknowledged has it there once.
        done = 0
        while done < 5:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for reply in log_sink(channel).Push(iter([PushRequest(producer="p"), *many[done:]])):
                    done = max(done, reply.durable_seq)
        assert len(await stored(channel)) == 10
        assert sink.counters.records == 10


@pytest.mark.parametrize(
    ("method", "data", "says"),
    [
        ("Push", PushRequest(seq=1, batch=batch("a")).SerializeToString(), "producer"),
        ("Push", b"\xff\xff", "PushRequest"),
        ("Push", PushRequest(producer="x").SerializeToString().replace(b"x", b"\xff"), "UTF-8"),
        ("Search", SearchRequest().SerializeToString(), "time range"),
        ("Search", SearchRequest(filter=ALL, limit=5001).SerializeToString(), "5000"),
        ("Search", SearchRequest(filter=ALL, cursor="nonsense").SerializeToString(), "cursor"),
        ("Search", SearchRequest(filter=Filter(correlation_id="a", regex="(")).SerializeToString(), "("),
        ("Search", SearchRequest(filter=Filter(correlation_id="a", text="a\0")).SerializeToString(), "character 0"),
        ("Tail", TailRequest(backlog=1001).SerializeToString(), "1000"),
        ("Histogram", HistogramRequest(filter=ALL, step_ns=1).SerializeToString(), "buckets"),
    ],
    # The bytes hold times, which differ from process to process.
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_makes_no_sense_is_said(tmp_path: Path, method: str, data: bytes, says: str) -> None:
    async with serving(tmp_path) as (channel, _):
        path = f"/{LOG_SINK}/{method}"
        if method == "Push":
            error = await failure(channel.stream_stream(path)(iter([data])))
        elif method == "Tail":
            error = await failure(channel.unary_stream(path)(data))
        else:
            error = await failure(channel.unary_unary(path)(data))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert says in (error.details() or "")


def text(value: str) -> AnyValue:
    return AnyValue(string_value=value)


def export(*records: LogRecord) -> ExportLogsServiceRequest:
    resource = ResourceLogs(scope_logs=[ScopeLogs(log_records=records)])
    resource.scope_logs[0].scope.name = "app.orders"
    for key, value in (("service.name", "orders"), ("service.instance.id", "orders-1"), ("host.name", "h")):
        resource.resource.attributes.add(key=key, value=text(value))
    return ExportLogsServiceRequest(resource_logs=[resource])


async def test_opentelemetrys_records_become_ours(tmp_path: Path) -> None:
    tree = AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="a", value=AnyValue(int_value=2**60))]))
    record = LogRecord(
        time_unix_nano=NOW,
        severity_number=17,  # type: ignore[arg-type]
        severity_text="ERROR",
        body=text("it broke"),
        trace_id=bytes(range(16)),
        span_id=bytes(range(8)),
        flags=1,
        dropped_attributes_count=2,
        event_name="broken",
        attributes=[
            KeyValue(key="correlation_id", value=text("order-7")),
            KeyValue(key="tree", value=tree),
            KeyValue(key="nan", value=AnyValue(double_value=float("nan"))),
            KeyValue(
                key="list", value=AnyValue(array_value=ArrayValue(values=[AnyValue(bool_value=True), AnyValue()]))
            ),
            KeyValue(key="bytes", value=AnyValue(bytes_value=b"\xff")),
        ],
    )
    bare = LogRecord(body=AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="a", value=text("b"))])))
    async with serving(tmp_path) as (channel, _):
        reply = await otlp(channel).Export(export(record, bare), compression=grpc.Compression.Gzip)
        assert not reply.HasField("partial_success")
        page = await log_sink(channel).Search(SearchRequest(filter=Filter(correlation_id="order-7")))
        assert '{"a":"b"}' in await stored(channel)
    (found,) = page.records
    assert (found.ts_ns, found.severity_number, found.severity_text, found.body) == (NOW, 17, "ERROR", "it broke")
    assert (found.trace_id, found.span_id) == (bytes(range(16)).hex(), bytes(range(8)).hex())
    assert (found.service, found.instance, found.scope, found.event_name) == (
        "orders",
        "orders-1",
        "app.orders",
        "broken",
    )
    assert (found.flags, found.dropped_attributes) == (1, 2)
    assert json.loads(found.attributes) == {
        "resource.host.name": "h",
        "correlation_id": "order-7",
        "tree": {"a": 2**60},
        "nan": "nan",
        "list": [True, None],
        "bytes": "ff",
    }


async def test_opentelemetrys_messages_that_are_bad(tmp_path: Path) -> None:
    async with serving(tmp_path) as (channel, sink):
        stub = otlp(channel)
        raw = channel.unary_unary(f"/{OTLP_LOGS}/Export")
        invalid = export(LogRecord(body=text("body"))).SerializeToString().replace(b"body", b"b\xff\xfey")
        for data in (invalid, b"\x0a\xff"):
            error = await failure(raw(data))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "ExportLogsServiceRequest" in (error.details() or "")
        assert sink.counters.undecodable == 2
        absurd = [LogRecord(time_unix_nano=ts, body=text("when?")) for ts in (1, 2**64 - 1)]
        await stub.Export(export(*absurd))
        assert sink.counters.absurd_times == 2
        huge = await stub.Export(export(LogRecord(body=text("ü" * (1 << 20)))), compression=grpc.Compression.Gzip)
        assert "1 MiB" in huge.partial_success.error_message
        assert huge.partial_success.rejected_log_records == 0
        await stub.Export(ExportLogsServiceRequest())
        bodies = await stored(channel)
        assert bodies[:2] == ["when?", "when?"]
        assert len(bodies[2].encode()) <= 1 << 20
        # Counted after decompression.
        too_much = export(*[LogRecord(body=text("x" * 1_000_000))] * 68)
        error = await failure(stub.Export(too_much, compression=grpc.Compression.Gzip))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(await stored(channel)) == 3


async def test_replies_stay_small_however_large_the_records(tmp_path: Path) -> None:
    async with serving(tmp_path) as (channel, _):
        stub = log_sink(channel)
        tail = stub.Tail(TailRequest())
        assert not (await tail.read()).records
        texts = [str(n) + "x" * 900_000 for n in range(9)]
        async for _reply in stub.Push(iter([push(seq, *texts[3 * seq - 3 : 3 * seq]) for seq in (1, 2, 3)])):
            pass
        assert await stored(channel) == texts
        got: list[str] = []
        while len(got) < 9:
            got += [record.body for record in (await asyncio.wait_for(tail.read(), 30)).records]
        assert got == texts
        tail.cancel()
        backlog = await stub.Tail(TailRequest(backlog=9)).read()
        assert [record.body for record in backlog.records] == texts[-3:]


async def test_a_tail_over_grpc(tmp_path: Path) -> None:
    async with serving(tmp_path) as (channel, _):
        stub = log_sink(channel)
        tail = stub.Tail(TailRequest())
        assert not (await tail.read()).records
        async for _reply in stub.Push(iter([push(1, "a")])):
            pass
        got = await asyncio.wait_for(tail.read(), 30)
        assert [record.body for record in got.records] == ["a"]
        tail.cancel()
