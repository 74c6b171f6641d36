"""`jaeger.api_v3.QueryService` over the trace sink, so that Jaeger's own tools can read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from mesh.api.tracesink.v1 import Span, TopologyRequest, TraceFilter
from services.names import JAEGER_QUERY
from services.sinks.errors import InvalidError
from services.sinks.searching import check_range, fitting
from services.sinks.serving import Context, answering, decoded, serialized, unary
from services.storage.columns.base import Scope
from services.tracesink import searching
from services.tracesink.domain import TraceSink
from services.tracesink.jaeger import messages
from services.tracesink.jaeger.convert import kind_name, kind_of, traces_data
from services.tracesink.jaeger.summaries import summary
from services.tracesink.records import SPANS
from services.tracesink.searching import MAX_SPANS, Query
from services.tracesink.summaries import by_traces, readable

DEFAULT_DEPTH = 100
MAX_NAMES = 10_000
SUMMARIES_A_REPLY = 200


class JaegerQuery:
    """Answers as Jaeger's query service does."""

    def __init__(self, sink: TraceSink) -> None:
        self._sink = sink

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it."""
        methods: dict[str, Any] = {
            "GetTrace": grpc.unary_stream_rpc_method_handler(self.get_trace, None, serialized),
            "FindTraces": grpc.unary_stream_rpc_method_handler(self.find_traces, None, serialized),
            "GetServices": unary(self.get_services),
            "GetOperations": unary(self.get_operations),
            "GetDependencies": unary(self.get_dependencies),
            "FindTraceSummaries": grpc.unary_stream_rpc_method_handler(self.find_trace_summaries, None, serialized),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(JAEGER_QUERY, methods),))

    async def get_trace(self, data: bytes, context: Context) -> AsyncIterator[Message]:
        async with answering(context):
            request = self._decoded(messages.GetTraceRequest, data)
            async for part in self._trace(request.trace_id.lower().rjust(32, "0")):
                yield part

    async def find_traces(self, data: bytes, context: Context) -> AsyncIterator[Message]:
        async with answering(context):
            query = self._decoded(messages.FindTracesRequest, data).query
            for trace_id in await self._found(query):
                async for part in self._trace(trace_id):
                    yield part

    async def find_trace_summaries(self, data: bytes, context: Context) -> AsyncIterator[Message]:
        async with answering(context):
            found = await self._found(self._decoded(messages.FindTraceSummariesRequest, data).query)
            while found:
                count, summaries = await self._summaries(found[:SUMMARIES_A_REPLY])
                found = found[count:]
                yield messages.FindTraceSummariesResponse(summaries=summaries)

    async def get_services(self, data: bytes, context: Context) -> Message:
        self._decoded(messages.GetServicesRequest, data)
        sql = f"SELECT DISTINCT service FROM {{spans}} WHERE service <> '' ORDER BY service LIMIT {MAX_NAMES}"
        table = await self._sink.ask(Query(sql, (), Scope(SPANS.name)))
        reply: Message = messages.GetServicesResponse(services=table["service"].to_pylist())
        return reply

    async def get_operations(self, data: bytes, context: Context) -> Message:
        request = self._decoded(messages.GetOperationsRequest, data)
        if not request.service:
            raise InvalidError("service: name one")
        condition, params = "service = $1", [request.service]
        if request.span_kind:
            condition, params = f"{condition} AND kind = $2", [*params, kind_of(request.span_kind.lower())]
        sql = f"SELECT DISTINCT name, kind FROM {{spans}} WHERE {condition} ORDER BY name, kind LIMIT {MAX_NAMES}"
        table = await self._sink.ask(Query(sql, tuple(params), Scope(SPANS.name)))
        found = [messages.Operation(name=row["name"], span_kind=kind_name(row["kind"])) for row in table.to_pylist()]
        reply: Message = messages.GetOperationsResponse(operations=found)
        return reply

    async def get_dependencies(self, data: bytes, context: Context) -> Message:
        request = self._decoded(messages.GetDependenciesRequest, data)
        start, end = _ns(request.start_time), _ns(request.end_time)
        topology = await self._sink.topology(TopologyRequest(start_ns=start, end_ns=end))
        counts: dict[tuple[str, str], int] = {}
        for edge in topology.edges:
            pair = (edge.caller, edge.callee)
            counts[pair] = counts.get(pair, 0) + edge.calls
        found = [messages.Dependency(parent=one, child=two, call_count=n) for (one, two), n in counts.items()]
        reply: Message = messages.DependenciesResponse(dependencies=found)
        return reply

    async def _found(self, query: Any) -> list[str]:
        """Return the ids of the traces that are asked for, newest first."""
        filter_ = _filter(query)
        if query.search_depth < 0:
            raise InvalidError("query.search_depth: it must not be negative")
        limit = min(query.search_depth or DEFAULT_DEPTH, searching.MAX_LIMIT)
        places = await self._sink.places(filter_, limit, None, jaeger=True)
        return [place.trace_id for place in places[:limit]]

    async def _summaries(self, trace_ids: Sequence[str]) -> tuple[int, list[Message]]:
        """Return the summaries of the first of some traces, and of how many; retention may have taken one meanwhile."""
        counts = await self._sink.counts(trace_ids)
        known = [trace_id for trace_id in trace_ids if trace_id in counts]
        count = readable(known, counts, MAX_SPANS)
        table = await self._sink.ask(searching.light(known[:count]))
        by_trace = await asyncio.to_thread(by_traces, table)
        done = [summary(by_trace[trace_id]) for trace_id in known[:count] if trace_id in by_trace]
        return (len(trace_ids) if count == len(known) else trace_ids.index(known[count])), done

    async def _trace(self, trace_id: str) -> AsyncIterator[TracesData]:
        """Yield the spans of a trace, in parts that gRPC takes."""
        spans, _ = await self._sink.spans(trace_id)
        while spans:
            count = fitting(spans)
            yield await asyncio.to_thread(traces_data, spans[:count])
            spans: list[Span] = spans[count:]  # type: ignore[no-redef]

    def _decoded(self, kind: Any, data: bytes) -> Any:
        return decoded(kind, data, self._sink.counters)


def _ns(moment: Any) -> int:
    """Return a time or a duration in nanoseconds."""
    try:
        found = int(moment.ToNanoseconds())
    except ValueError as error:
        raise InvalidError(f"a time makes no sense: {error}") from error
    if not 0 <= found < 2**63:
        raise InvalidError("a time makes no sense: it must lie after 1970, and before 2262")
    return found


def _filter(query: Any) -> TraceFilter:
    """Return what the parameters ask for; operations are names of spans, whole."""
    if not (query.HasField("start_time_min") and query.HasField("start_time_max")):
        raise InvalidError("query: give start_time_min and start_time_max")
    start, end = _ns(query.start_time_min), _ns(query.start_time_max)
    check_range(start, end)
    if UnknownFieldSet(query):
        # To leave a condition out would answer with more than was asked for.
        raise InvalidError("query: structured filters are not served: ask by service, operation, attributes and times")
    attributes = dict(query.attributes)
    # Jaeger's own way of asking for what failed.
    errors = attributes.get("error") == "true"
    if errors:
        del attributes["error"]
    return TraceFilter(
        start_ns=start,
        end_ns=end,
        services=[query.service_name] if query.service_name else [],
        method=query.operation_name,
        min_duration_ns=_ns(query.duration_min),
        max_duration_ns=_ns(query.duration_max),
        errors=errors,
        attributes=attributes,
    )
