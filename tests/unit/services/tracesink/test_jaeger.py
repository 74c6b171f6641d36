"""The trace sink as Jaeger's tools see it: by the names and numbers of Jaeger's own contract, over reflection."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

from services.names import JAEGER_QUERY
from services.tracesink.jaeger import messages
from tests.unit.services.tracesink.test_service import NOW, TRACE, export, otlp, serving, span

BEFORE, AFTER = NOW - 10**9, NOW + 10**9


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[Any]:
    async with serving(tmp_path) as (opened, _):
        yield opened


async def ask(channel: Any, method: str, reply: Any, **fields: Any) -> list[Any]:
    request = json_format.ParseDict(fields, getattr(messages, f"{method}Request")())
    path = f"/{JAEGER_QUERY}/{method}"
    if reply is TracesData:
        return [one async for one in channel.unary_stream(path, messages_bytes, reply.FromString)(request)]
    return [await channel.unary_unary(path, messages_bytes, reply.FromString)(request)]


def messages_bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def instant(ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09}Z"


def whole_span() -> Span:
    made = span(2, 1, name="shop.v1.Orders/Get", order__id="7", n=5)
    made.kind = Span.SPAN_KIND_CLIENT
    made.trace_state = "a=b"
    made.status.message = "it broke"
    made.status.code = made.status.STATUS_CODE_ERROR
    nested = KeyValueList(values=[KeyValue(key="b", value=AnyValue(bool_value=True))])
    made.attributes.add(key="tree", value=AnyValue(kvlist_value=nested))
    made.attributes.add(key="list", value=AnyValue(array_value=ArrayValue(values=[AnyValue(double_value=1.5)])))
    made.events.add(time_unix_nano=NOW + 1, name="e").attributes.add(key="k", value=AnyValue(string_value="v"))
    made.links.add(trace_id=bytes(range(16)), span_id=bytes(range(8)), trace_state="c=d")
    return made


def by_key(data: TracesData) -> TracesData:
    """Order attributes by their names: their order says nothing."""
    for group in data.resource_spans:
        group.resource.attributes.sort(key=lambda one: one.key)
        for scoped in group.scope_spans:
            for one in scoped.spans:
                one.attributes.sort(key=lambda attribute: attribute.key)
    return data


async def test_a_span_comes_back_as_it_was_sent(channel: Any) -> None:
    sent = export(whole_span())
    await otlp(channel).Export(sent)
    (found,) = await ask(channel, "GetTrace", TracesData, traceId=TRACE)
    wanted = TracesData(resource_spans=sent.resource_spans)
    # What the sink knows beside: whose conversation it was.
    correlation = KeyValue(key="correlation_id", value=AnyValue(string_value=TRACE))
    wanted.resource_spans[0].scope_spans[0].spans[0].attributes.append(correlation)
    assert by_key(found) == by_key(wanted)


async def test_traces_are_found_by_what_jaegers_search_has(channel: Any) -> None:
    other = span(3, name="Get", order__id="8")
    other.trace_id = bytes(15) + b"\x01"
    await otlp(channel).Export(export(whole_span()))
    await otlp(channel).Export(export(other, **{"service.name": "stock"}))
    window = {"startTimeMin": instant(BEFORE), "startTimeMax": instant(AFTER)}

    async def found(**query: Any) -> list[str]:
        replies = await ask(channel, "FindTraces", TracesData, query=window | query)
        return [reply.resource_spans[0].scope_spans[0].spans[0].span_id.hex()[-1] for reply in replies]

    assert sorted(await found()) == ["2", "3"]
    assert await found(serviceName="stock") == ["3"]
    # A whole name, not its end.
    assert await found(operationName="Get") == ["3"]
    assert await found(attributes={"order.id": "7"}) == ["2"]
    # Of the resource.
    assert sorted(await found(attributes={"host.name": "h"})) == ["2", "3"]
    assert await found(attributes={"error": "true"}) == ["2"]
    assert await found(durationMin="1s") == []
    assert len(await found(searchDepth=1)) == 1
    # 64 bits, as Jaeger writes them.
    (short,) = await ask(channel, "GetTrace", TracesData, traceId="1")
    assert short.resource_spans[0].scope_spans[0].spans[0].name == "Get"


async def test_a_list_of_what_was_found_has_each_trace_in_a_few_words(channel: Any) -> None:
    server = span(3, 2, name="shop.v1.Orders/Get")
    server.end_time_unix_nano = NOW + 5_000
    lost = span(4, 9, name="SELECT")
    other = span(5, name="Get")
    other.trace_id = bytes(15) + b"\x01"
    await otlp(channel).Export(export(whole_span(), **{"service.name": "shop"}))
    await otlp(channel).Export(export(server, lost))
    await otlp(channel).Export(export(other, **{"service.name": "stock"}))
    window = {"startTimeMin": instant(BEFORE), "startTimeMax": instant(AFTER)}
    replies = await ask(channel, "FindTraceSummaries", messages.FindTraceSummariesResponse, query=window)
    found = {one.trace_id: one for reply in replies for one in reply.summaries}
    assert found.keys() == {TRACE, "0" * 31 + "1"}
    told = found[TRACE]
    assert (told.root_service_name, told.root_operation_name) == ("shop", "shop.v1.Orders/Get")
    assert (told.span_count, told.error_span_count) == (3, 1)
    # The first one names a parent that never came as well.
    assert told.orphan_span_count == 2
    assert [(one.name, one.span_count, one.error_span_count) for one in told.services] == [
        ("orders", 2, 0),
        ("shop", 1, 1),
    ]
    spans = [whole_span(), server, lost]
    assert told.min_start_time_unix_nano == min(one.start_time_unix_nano for one in spans)
    assert told.max_end_time_unix_nano == max(one.end_time_unix_nano for one in spans)
    named = window | {"serviceName": "stock"}
    (reply,) = await ask(channel, "FindTraceSummaries", messages.FindTraceSummariesResponse, query=named)
    assert [one.trace_id for one in reply.summaries] == ["0" * 31 + "1"]


async def test_a_condition_that_is_not_understood_is_not_left_out(channel: Any) -> None:
    query = messages.TraceQueryParameters()
    json_format.ParseDict({"startTimeMin": instant(BEFORE), "startTimeMax": instant(AFTER)}, query)
    # Field 10 is a structured filter.
    query.MergeFromString(b"\x52\x04\x0a\x02eq")
    request = messages.FindTraceSummariesRequest(query=query)
    with pytest.raises(grpc.aio.AioRpcError, match="structured filters") as failed:
        async for _ in channel.unary_stream(f"/{JAEGER_QUERY}/FindTraceSummaries")(request.SerializeToString()):
            pass
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_services_operations_and_dependencies(channel: Any) -> None:
    server = span(3, 2, name="shop.v1.Orders/Get")
    server.kind = Span.SPAN_KIND_SERVER
    await otlp(channel).Export(export(whole_span(), **{"service.name": "shop"}))
    await otlp(channel).Export(export(server))
    (services,) = await ask(channel, "GetServices", messages.GetServicesResponse)
    assert list(services.services) == ["orders", "shop"]
    for more, wanted in (({}, ["client"]), ({"spanKind": "client"}, ["client"]), ({"spanKind": "server"}, [])):
        (reply,) = await ask(channel, "GetOperations", messages.GetOperationsResponse, service="shop", **more)
        assert [one.span_kind for one in reply.operations] == wanted
    times = {"startTime": instant(BEFORE), "endTime": instant(AFTER)}
    (reply,) = await ask(channel, "GetDependencies", messages.DependenciesResponse, **times)
    assert [(one.parent, one.child, one.call_count) for one in reply.dependencies] == [("shop", "orders", 1)]


@pytest.mark.parametrize(
    ("method", "request_", "code", "says"),
    [
        ("GetTrace", messages.GetTraceRequest(trace_id=TRACE), grpc.StatusCode.NOT_FOUND, TRACE),
        ("GetTrace", messages.GetTraceRequest(trace_id="xyz"), grpc.StatusCode.INVALID_ARGUMENT, "hexadecimal"),
        ("FindTraces", messages.FindTracesRequest(), grpc.StatusCode.INVALID_ARGUMENT, "start_time_min"),
        (
            "FindTraceSummaries",
            messages.FindTraceSummariesRequest(),
            grpc.StatusCode.INVALID_ARGUMENT,
            "start_time_min",
        ),
        ("GetOperations", messages.GetOperationsRequest(), grpc.StatusCode.INVALID_ARGUMENT, "service"),
        ("GetDependencies", messages.GetDependenciesRequest(), grpc.StatusCode.INVALID_ARGUMENT, "time range"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_makes_no_sense_is_said(
    channel: Any, method: str, request_: Any, code: grpc.StatusCode, says: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in channel.unary_stream(f"/{JAEGER_QUERY}/{method}")(request_.SerializeToString()):
            pass
    assert failed.value.code() is code
    assert says in (failed.value.details() or "")


async def test_a_trace_larger_than_a_message_comes_in_parts(channel: Any) -> None:
    many = [span(number, text="x" * 500_000) for number in range(1, 15)]
    await otlp(channel).Export(export(*many))
    parts = await ask(channel, "GetTrace", TracesData, traceId=TRACE)
    assert len(parts) > 1
    assert sum(len(part.resource_spans[0].scope_spans[0].spans) for part in parts) == 14


async def test_reflection_knows_the_contract(channel: Any) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=JAEGER_QUERY)
    replies = [reply async for reply in stub.ServerReflectionInfo(iter([request]))]
    assert b"FindTracesRequest" in replies[0].file_descriptor_response.file_descriptor_proto[0]
