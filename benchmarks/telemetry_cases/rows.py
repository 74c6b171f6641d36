"""Log records as a shop of services would write them."""

from __future__ import annotations

import random
import time

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from mesh.api.logsink.v1 import LogBatch
from mesh.telemetry.record import Record, to_batch

_SERVICES = tuple((f"service-{n}", f"service-{n}-{m}") for n in range(10) for m in range(3))
_MESSAGES = (
    "order {} was placed by customer {}",
    "payment of {} cents for order {} was taken",
    "could not reserve {} of article {}: not enough in stock, trying the next warehouse",
    "GET /shop.v1.Orders/Get took {} ms for peer 10.0.{}.7",
)
# Of one conversation.
PER_ID = 4


def records(count: int, first: int, start_ns: int, step_ns: int) -> list[Record]:
    """Return records numbered from `first`, `step_ns` apart; four in a row have one correlation id."""
    choose = random.Random(first)  # noqa: S311
    found = []
    for number in range(first, first + count):
        service, instance = choose.choice(_SERVICES)
        body = choose.choice(_MESSAGES).format(choose.randrange(100_000), number % 977)
        found.append(
            Record(
                body,
                start_ns + number * step_ns,
                choose.choice((5, 9, 9, 9, 9, 13, 17)),
                "INFO",
                service,
                instance,
                scope="shop.orders",
                correlation_id=correlation_id(number),
                trace_id=f"{number // PER_ID:032x}",
                span_id=f"{number:016x}",
                attributes={"order.id": str(number % 10_000), "customer": choose.randrange(1000), "region": "eu-1"},
            )
        )
    return found


def correlation_id(number: int) -> str:
    """Return the correlation id of a record: random-looking, as real ones are."""
    return f"{(number // PER_ID * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128:032x}"


def columnar(count: int, first: int, step_ns: int = 1000, start_ns: int = 0) -> LogBatch:
    now = time.time_ns()
    return to_batch(records(count, first, start_ns or now, step_ns), now)


def otlp(count: int, first: int) -> bytes:
    """Return the same as an OpenTelemetry message: a resource a service."""
    request = ExportLogsServiceRequest()
    scopes = {}
    for record in records(count, first, time.time_ns(), 1000):
        if record.instance not in scopes:
            resource = request.resource_logs.add()
            for key, value in (("service.name", record.service), ("service.instance.id", record.instance)):
                resource.resource.attributes.add(key=key).value.string_value = value
            scopes[record.instance] = resource.scope_logs.add()
            scopes[record.instance].scope.name = record.scope
        log = scopes[record.instance].log_records.add(
            time_unix_nano=record.ts_ns,
            severity_number=record.severity,
            severity_text=record.severity_text,
            trace_id=bytes.fromhex(record.trace_id),
            span_id=bytes.fromhex(record.span_id),
        )
        log.body.string_value = record.body
        for key, value in {**record.attributes, "correlation_id": record.correlation_id}.items():
            log.attributes.add(key=key).value.string_value = str(value)
    return request.SerializeToString()
