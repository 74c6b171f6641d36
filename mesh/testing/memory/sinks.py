"""The log and the trace sink in memory: what is pushed to them, in the order in which it came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from mesh.api.logsink import v1 as logsink
from mesh.api.metrics import v1 as metrics
from mesh.api.tracesink import v1 as tracesink
from mesh.telemetry.record import Record
from mesh.telemetry.spans import SpanEvent, SpanLink, SpanRecord

Context = grpc.aio.ServicerContext[Any, Any]


class Pushed:
    """What came, and waiting for more."""

    def __init__(self) -> None:
        # Of each producer, how far it has come.
        self._durable: dict[str, int] = {}
        self._came = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what came makes `condition` true."""
        while not condition():
            await self._came.wait()

    async def replies(
        self, requests: AsyncIterator[Any], reply: Any, take: Callable[[Any], None]
    ) -> AsyncIterator[Any]:
        """Answer one producer's stream, and `take` its batches."""
        producer = ""
        async for request in requests:
            producer = producer or request.producer
            if request.HasField("batch") and request.seq > self._durable.get(producer, 0):
                take(request.batch)
                self._durable[producer] = request.seq
                self._came.set()
                self._came = asyncio.Event()
            yield reply(durable_seq=self._durable.get(producer, 0))


class MemoryLogSink(logsink.LogSinkServicer):
    """Takes records; it has no queries but `records`."""

    def __init__(self) -> None:
        self.pushed = Pushed()
        self.records: list[Record] = []

    async def Push(
        self, request_iterator: AsyncIterator[logsink.PushRequest], context: Context
    ) -> AsyncIterator[logsink.PushResponse]:
        async for reply in self.pushed.replies(request_iterator, logsink.PushResponse, self._take):
            yield reply

    def _take(self, batch: logsink.LogBatch) -> None:
        count = len(batch.ts_ns)
        texts = {name: _texts(getattr(batch, name), count) for name in _LOG_TEXTS}
        severities, flags = _numbers(batch.severity_number, count), _numbers(batch.flags, count)
        attributes = _texts(batch.attributes, count)
        for row in range(count):
            self.records.append(
                Record(
                    ts_ns=batch.ts_ns[row],
                    severity=severities[row],
                    flags=flags[row],
                    attributes=json.loads(attributes[row] or "{}"),
                    **{name: column[row] for name, column in texts.items()},
                )
            )


class MemoryTraceSink(tracesink.TraceSinkServicer):
    """Takes spans; it has no queries but `spans`."""

    def __init__(self) -> None:
        self.pushed = Pushed()
        self.spans: list[SpanRecord] = []

    async def Push(
        self, request_iterator: AsyncIterator[tracesink.PushRequest], context: Context
    ) -> AsyncIterator[tracesink.PushResponse]:
        async for reply in self.pushed.replies(request_iterator, tracesink.PushResponse, self._take):
            yield reply

    def _take(self, batch: tracesink.SpanBatch) -> None:
        count = len(batch.start_ns)
        texts: dict[str, list[Any]] = {name: _texts(getattr(batch, name), count) for name in _SPAN_TEXTS}
        numbers: dict[str, list[Any]] = {name: _numbers(getattr(batch, name), count) for name in _SPAN_NUMBERS}
        attributes, events, links = (
            [json.loads(text) if text else None for text in _texts(column, count)]
            for column in (batch.attributes, batch.events, batch.links)
        )
        for row in range(count):
            self.spans.append(
                SpanRecord(
                    attributes=attributes[row] or {},
                    events=[SpanEvent(one["ts_ns"], one["name"], one["attributes"]) for one in events[row] or ()],
                    links=[
                        SpanLink(one["trace_id"], one["span_id"], one.get("trace_state", ""), one.get("attributes", {}))
                        for one in links[row] or ()
                    ],
                    **{name: column[row] for name, column in (*numbers.items(), *texts.items())},
                )
            )


class MemoryMetrics(metrics.MetricsServicer):
    """Takes samples, and forgets them: ask an instance's own `m.metrics`."""

    async def Push(
        self, request_iterator: AsyncIterator[metrics.PushRequest], context: Context
    ) -> AsyncIterator[metrics.PushResponse]:
        async for request in request_iterator:
            yield metrics.PushResponse(durable_seq=request.seq)


_LOG_TEXTS = (
    *("severity_text", "body", "event_name", "trace_id", "span_id", "correlation_id"),
    *("service", "instance", "version", "scope"),
)
_SPAN_TEXTS = (
    *("trace_id", "span_id", "parent_span_id", "name", "status_message", "service", "instance", "version", "scope"),
    *("correlation_id", "rpc_method", "rpc_status_code", "peer_service", "trace_state"),
)
_SPAN_NUMBERS = ("start_ns", "end_ns", "kind", "status", "flags", "dropped")


def _texts(column: logsink.TextColumn, count: int) -> list[str]:
    """Return a column with its repetitions."""
    values = list(column.values)
    if column.indices:
        return [values[index] for index in column.indices]
    return values if len(values) == count else (values or [""]) * count


def _numbers(column: Any, count: int) -> list[int]:
    return list(column) or [0] * count
