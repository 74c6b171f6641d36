"""The real OpenTelemetry SDK on a real control process: what it exports answers the questions of an operator.

Three services and two instances, each with providers of its own, as they would be in processes of their own. Times of
spans are given, so nothing sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from mesh.api.logsink.v1 import Filter, LogSinkStub, SearchRequest
from mesh.api.metrics.v1 import AlertsRequest, MetricsStub, PutRulesRequest, QueryRequest
from mesh.api.tracesink.v1 import (
    FindTracesRequest,
    GetCorrelationRequest,
    GetTraceRequest,
    LatencyRequest,
    TraceFilter,
    TraceSinkStub,
)
from mesh.cli.supervisor.ready import serving_all
from services.names import TELEMETRY
from tests.e2e.harness import PATIENCE, Running, channel, eventually

# Payments fail for these orders, and each of them is slow in the inventory.
ORDERS, FAILING = range(1, 13), {4, 8}
MS = 1_000_000
RULES = """
groups:
  - name: sdk
    interval: 1s
    rules:
      - alert: QueueTooLong
        expr: orders_queue_length > 5
        labels: {severity: page}
"""


# One control process for all of them.
pytestmark = pytest.mark.xdist_group("opentelemetry")


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("sdk")
    running = Running.start(folder, "control", "--listen", "127.0.0.1:0", "--data-dir", str(folder / "data"))
    try:
        address = running.next_line().strip().rsplit(" ", 1)[1]
        asyncio.run(serving_all(address, TELEMETRY))
        yield address
        assert running.stop() == 0
    finally:
        running.kill()


class Service:
    """One instance as the SDK's documentation sets it up, compressed."""

    def __init__(self, control: str, name: str, instance: str) -> None:
        resource = Resource.create({"service.name": name, "service.instance.id": instance, "service.version": "1.2"})
        how: Any = {"endpoint": control, "insecure": True, "compression": grpc.Compression.Gzip, "timeout": PATIENCE}
        self._traces = TracerProvider(resource=resource)
        self._traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(**how)))
        self._logs = LoggerProvider(resource=resource)
        self._logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(**how)))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(**how), export_interval_millis=60_000)
        self._metrics = MeterProvider([reader], resource=resource)
        self.tracer = self._traces.get_tracer("shop")
        self.meter = self._metrics.get_meter("shop")
        with warnings.catch_warnings():  # what is to replace it is in a package that patches the standard library
            warnings.simplefilter("ignore", DeprecationWarning)
            self._handler = LoggingHandler(logger_provider=self._logs)
        self.log = logging.getLogger(f"{control}.{name}.{instance}")
        self.log.propagate = False
        self.log.addHandler(self._handler)

    def flush(self) -> None:
        assert self._traces.force_flush()
        assert self._logs.force_flush()
        assert self._metrics.force_flush()

    def close(self) -> None:
        for provider in (self._traces, self._logs, self._metrics):
            provider.shutdown()


@dataclass
class Shop:
    control: str
    services: dict[str, Service]
    began: int
    # By order.
    traces: dict[int, str]


@contextlib.contextmanager
def span(service: Service, name: str, begin: int, end: int, **attributes: Any) -> Iterator[trace.Span]:
    kind = SpanKind.SERVER
    with service.tracer.start_as_current_span(
        name, kind=kind, start_time=begin, end_on_exit=False, attributes=attributes
    ) as made:
        yield made
        made.end(end)


@pytest.fixture(scope="module")
def shop(control: str) -> Iterator[Shop]:
    names = ("storefront", "orders", "payments", "inventory")
    services = {name: Service(control, name, f"{name}-1") for name in names}
    placed = services["orders"].meter.create_counter("orders.placed", "1", "Orders.")
    took = services["orders"].meter.create_histogram("orders.duration", "s", "How long an order took.")
    began = time.time_ns() - 60_000 * MS
    traces = {}
    for order in ORDERS:
        about = {"order.id": str(order)}
        at = began + order * 1000 * MS
        with span(services["storefront"], "shop.Storefront/Place", at, at + 500 * MS, **about) as root:
            traces[order] = f"{root.get_span_context().trace_id:032x}"
            services["storefront"].log.warning("an order came in", extra=about)
            with span(services["orders"], "shop.Orders/Place", at + MS, at + 490 * MS, **about) as mine:
                services["orders"].log.warning("order %d is placed", order, extra=about)
                with span(services["inventory"], "shop.Inventory/Reserve", at + 2 * MS, at + 400 * MS, **about):
                    pass
                with span(
                    services["payments"], "shop.Payments/Charge", at + 410 * MS, at + 420 * MS, **about
                ) as charge:
                    if order in FAILING:
                        services["payments"].log.error("the bank says no", extra=about)
                        charge.set_status(Status(StatusCode.ERROR, "the bank says no"))
                if order in FAILING:
                    mine.set_status(Status(StatusCode.ERROR, "not paid"))
                    root.set_status(Status(StatusCode.ERROR, "not placed"))
        placed.add(1, {"outcome": "failed" if order in FAILING else "ok"})
        took.record(0.49)
    for service in services.values():
        service.flush()
    try:
        yield Shop(control, services, began, traces)
    finally:
        for service in services.values():
            service.close()


def when(shop: Shop) -> dict[str, Any]:
    return {"start_ns": shop.began, "end_ns": shop.began + 120_000 * MS}


def query(shop: Shop, promql: str) -> dict[str, float]:
    with channel(shop.control) as opened:
        reply = MetricsStub(opened).Query(QueryRequest(query=promql), timeout=PATIENCE)
    found = {}
    for one in reply.answer.series:
        labels = dict(one.labels)
        found[labels.get("instance") or labels.get("outcome", "")] = one.values[0]
    return found


def test_which_service_caused_the_fault(shop: Shop) -> None:
    with channel(shop.control) as opened:
        stub = TraceSinkStub(opened)
        found = stub.FindTraces(FindTracesRequest(filter=TraceFilter(**when(shop), errors=True)), timeout=PATIENCE)
        assert {one.trace_id for one in found.traces} == {shop.traces[order] for order in FAILING}
        assert {(one.culprit_service, one.culprit_name) for one in found.traces} == {
            ("payments", "shop.Payments/Charge")
        }
        for one in found.traces:
            spans = stub.GetTrace(GetTraceRequest(trace_id=one.trace_id), timeout=PATIENCE).spans
            failed = {one.span_id: one for one in spans if one.status == 2}
            called_by_failed = {one.parent_span_id for one in failed.values()}
            (culprit,) = [one for one in failed.values() if one.span_id not in called_by_failed]
            assert (culprit.service, culprit.instance, culprit.name, culprit.status_message) == (
                "payments",
                "payments-1",
                "shop.Payments/Charge",
                "the bank says no",
            )


def test_all_logs_of_one_order(shop: Shop) -> None:
    with channel(shop.control) as opened:
        stub = LogSinkStub(opened)
        wanted = Filter(start_ns=shop.began, end_ns=2**62, attributes={"order.id": "8"})
        records = stub.Search(SearchRequest(filter=wanted, oldest_first=True), timeout=PATIENCE).records
        told = [(one.service, one.severity_text, one.body) for one in records]
        assert told == [
            ("storefront", "WARN", "an order came in"),
            ("orders", "WARN", "order 8 is placed"),
            ("payments", "ERROR", "the bank says no"),
        ]
        # Without a time, by the id of the conversation, which for who knows only OpenTelemetry is the trace's.
        by_id = stub.Search(SearchRequest(filter=Filter(correlation_id=shop.traces[8])), timeout=PATIENCE).records
        assert sorted(one.row_id for one in by_id) == sorted(one.row_id for one in records)
        assert {one.trace_id for one in records} == {shop.traces[8]}


def test_an_order_is_found_with_its_spans_and_logs(shop: Shop) -> None:
    with channel(shop.control) as opened:
        stub = TraceSinkStub(opened)
        wanted = TraceFilter(**when(shop), attributes={"order.id": "4"})
        (found,) = stub.FindTraces(FindTracesRequest(filter=wanted), timeout=PATIENCE).traces
        assert (found.trace_id, found.root_service) == (shop.traces[4], "storefront")
        asked = GetCorrelationRequest(correlation_id=found.correlation_id)
        story = stub.GetCorrelation(asked, timeout=PATIENCE)
        spans = [one.span.service for one in story.items if one.HasField("span")]
        logs = [one.record.service for one in story.items if one.HasField("record")]
        assert spans == ["storefront", "orders", "inventory", "payments"]
        assert sorted(logs) == ["orders", "payments", "storefront"]


def test_which_service_makes_the_latency(shop: Shop) -> None:
    with channel(shop.control) as opened:
        asked = LatencyRequest(filter=TraceFilter(**when(shop)))
        rows = TraceSinkStub(opened).Latency(asked, timeout=PATIENCE).rows
    slowest = max(rows, key=lambda row: row.self_ns)
    assert (slowest.service, slowest.calls, slowest.self_ns) == ("inventory", len(ORDERS), len(ORDERS) * 398 * MS)
    longest = max(rows, key=lambda row: row.total_ns)
    assert longest.service == "storefront", "who waits longest is not who takes the time"


def test_metrics_are_there_under_prometheus_names(shop: Shop) -> None:
    counts = query(shop, "sum by (outcome) (orders_placed_total)")
    assert counts == {"ok": len(ORDERS) - len(FAILING), "failed": len(FAILING)}
    assert query(shop, 'orders_duration_seconds_count{job="orders"}') == {"orders-1": len(ORDERS)}
    assert query(shop, "histogram_quantile(0.9, sum by (le) (orders_duration_seconds_bucket))")[""] > 0
    assert query(shop, 'target_info{job="orders",service_version="1.2",telemetry_sdk_language="python"}')


def test_a_new_instances_metrics_appear_by_themselves(shop: Shop) -> None:
    assert query(shop, "count by (instance) (orders_placed_total)").keys() == {"orders-1"}
    second = Service(shop.control, "orders", "orders-2")
    try:
        second.meter.create_counter("orders.placed", "1", "Orders.").add(3)
        second.flush()
        assert query(shop, 'orders_placed_total{job="orders",instance="orders-2"}') == {"orders-2": 3}
    finally:
        second.close()


def test_an_alert_fires_and_resolves(shop: Shop) -> None:
    service = shop.services["orders"]
    queue = service.meter.create_gauge("orders.queue.length", "{order}", "Orders that wait.")

    def states(length: int) -> dict[str, str]:
        queue.set(length)
        service.flush()
        found = stub.Alerts(AlertsRequest(), timeout=PATIENCE).alerts
        return {one.labels["alertname"]: one.state for one in found if one.labels["job"] == "orders"}

    with channel(shop.control) as opened:
        stub = MetricsStub(opened)
        stub.PutRules(PutRulesRequest(file="sdk", yaml=RULES), timeout=PATIENCE)
        for length, state in ((9, "firing"), (2, "resolved")):
            reached = partial(lambda length, state: states(length).get("QueueTooLong") == state, length, state)
            eventually(reached, f"the alert is {state}")
