"""Spans as a shop of services would make them: eight to a trace, each service's a server's span and its client's."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mesh.api.tracesink.v1 import SpanBatch
from mesh.telemetry.spans import CLIENT, ERROR, SERVER, UNSET, SpanRecord, to_span_batch

PER_TRACE = 8
_SERVICES = ("storefront", "orders", "payments", "inventory")
_METHODS = ("shop.v1.Orders/Get", "shop.v1.Orders/Place", "shop.v1.Payments/Charge", "shop.v1.Inventory/Reserve")


def spans(count: int, first: int, start_ns: int) -> Iterator[SpanRecord]:
    """Yield spans numbered from `first`, a microsecond apart: each is the child of the one before in its trace."""
    choose = random.Random(first)  # noqa: S311
    for number in range(first, first + count):
        place = number % PER_TRACE
        service = _SERVICES[place // 2]
        failed = choose.random() < 0.02
        begun = start_ns + number * 1000
        yield SpanRecord(
            trace_id=trace_id(number),
            span_id=f"{number + 1:016x}",
            parent_span_id=f"{number:016x}" if place else "",
            name=_METHODS[place // 2],
            start_ns=begun,
            end_ns=begun + choose.randrange(1_000_000, 50_000_000),
            kind=CLIENT if place % 2 else SERVER,
            status=ERROR if failed else UNSET,
            service=service,
            instance=f"{service}-{choose.randrange(3)}",
            scope="shop",
            correlation_id=f"order-{number // PER_TRACE}",
            rpc_method=_METHODS[place // 2],
            rpc_status_code="UNAVAILABLE" if failed else "OK",
            peer_service=_SERVICES[(place // 2 + 1) % 4] if place % 2 else "",
            attributes={"order.id": str(number // PER_TRACE % 10_000), "customer": choose.randrange(1000)},
        )


def trace_id(number: int) -> str:
    """Return the trace id of a span: random-looking, as real ones are."""
    return f"{((number // PER_TRACE + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128:032x}"


def columnar(count: int, first: int) -> SpanBatch:
    return to_span_batch(list(spans(count, first, time.time_ns())))


def otlp(count: int, first: int) -> bytes:
    """Return the same as an OpenTelemetry message: a resource an instance."""
    request = ExportTraceServiceRequest()
    scopes: dict[str, Any] = {}
    for span in spans(count, first, time.time_ns()):
        if span.instance not in scopes:
            resource = request.resource_spans.add()
            for key, value in (("service.name", span.service), ("service.instance.id", span.instance)):
                resource.resource.attributes.add(key=key).value.string_value = value
            scopes[span.instance] = resource.scope_spans.add()
            scopes[span.instance].scope.name = span.scope
        made = scopes[span.instance].spans.add(
            trace_id=bytes.fromhex(span.trace_id),
            span_id=bytes.fromhex(span.span_id),
            parent_span_id=bytes.fromhex(span.parent_span_id),
            name=span.name,
            kind=span.kind,
            start_time_unix_nano=span.start_ns,
            end_time_unix_nano=span.end_ns,
        )
        if span.status:
            made.status.code = span.status
        told = {
            "rpc.system.name": "grpc",
            "rpc.method": span.rpc_method,
            "rpc.response.status_code": span.rpc_status_code,
            "server.address": "10.0.0.1",
            "correlation_id": span.correlation_id,
            **({"peer.service": span.peer_service} if span.peer_service else {}),
            **span.attributes,
        }
        for key, value in told.items():
            made.attributes.add(key=key).value.string_value = str(value)
    return request.SerializeToString()
