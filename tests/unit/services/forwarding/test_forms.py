"""What is sent on, against what another sink makes of it again."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from mesh.api.logsink.v1 import LogBatch, TextColumn
from mesh.api.tracesink.v1 import SpanBatch
from mesh.telemetry.record import Record, to_batch
from mesh.telemetry.snapshot import Snapshots
from services.forwarding import logs, metrics, spans
from services.forwarding.items import Form, Item, exported, framed, unframed
from services.forwarding.metrics import Told
from services.forwarding.options import Signal
from services.forwarding.split import split
from services.logsink import otlp as logs_otlp
from services.logsink import records
from services.metrics.options import MetricsOptions
from services.metrics.otlp.convert import convert
from services.metrics.otlp.points import Totals
from services.metrics.promql.data import STALE, is_stale
from services.metrics.promql.labels import Labels
from services.metrics.samples import Meta, Samples
from services.sinks.messages import fields_of
from services.tracesink import otlp as traces_otlp
from services.tracesink import records as span_records

NOW = 1_700_000_000_000_000_000


def log_table() -> pa.Table:
    made = [
        Record(
            f"body {n} \N{SNOWMAN}",
            NOW + n,
            9 + n,
            "INFO",
            "orders",
            f"orders-{n % 2}",
            "1.0",
            "shop",
            "placed" if n else "",
            "order-7" if n % 3 else "",
            f"{n + 1:032x}",
            f"{n + 1:016x}",
            n,
            {"order.id": n, "deep": {"a": [1, 2.5, None, True]}, "text": "x"},
        )
        for n in range(6)
    ]
    table, _ = records.from_batch(fields_of(to_batch(made, NOW + 5)), NOW + 10)
    return table


def plain(table: pa.Table) -> list[dict[str, object]]:
    rows = table.to_pylist()
    for row in rows:
        row["attributes"] = json.loads(row["attributes"])
        row["attributes"].pop("correlation_id", None)
    return sorted(rows, key=lambda row: row["ts_ns"])


def test_log_records_are_the_same_at_the_other_end() -> None:
    table = log_table()
    again = logs_otlp.from_export(logs.export(table), NOW + 10).table
    assert plain(again) == plain(table)


def test_what_is_no_hexadecimal_id_does_not_hold_the_others_up() -> None:
    batch = LogBatch(ts_ns=[NOW], body=TextColumn(values=["x"]), trace_id=TextColumn(values=["mine"]))
    table, _ = records.from_batch(fields_of(batch), NOW)
    (resource,) = ExportLogsServiceRequest.FromString(logs.export(table)).resource_logs
    assert resource.scope_logs[0].log_records[0].trace_id == b""


def told() -> Told:
    registry = CollectorRegistry()
    Counter("calls", "Calls.", ["code"], registry=registry).labels(code="OK").inc(7)
    Gauge("room_bytes", "Room.", registry=registry).set(2.5)
    took = Histogram("took_seconds", "Time.", ["m"], buckets=(0.1, 1.0), registry=registry)
    for value in (0.05, 0.5, 5):
        took.labels(m="a").observe(value)
    Summary("size", "Size.", registry=registry).observe(3)
    values = Snapshots(registry, {"job": "orders", "instance": "o-1"}, 100).take()
    series = list(values)
    count = len(series)
    samples = Samples(
        [one.labels for one in series],
        np.arange(count, dtype=np.int64),
        np.full(count, NOW // 1_000_000, np.int64),
        np.array(list(values.values())),
    )
    return Told(samples, {dict(one.labels)["__name__"]: Meta(one.type, one.unit, one.help) for one in series})


def by_series(samples: Samples) -> dict[Labels, float]:
    values = samples.values.tolist()
    return {
        tuple((name, str(float(text)) if name == "le" else text) for name, text in samples.series[which]): values[i]
        for i, which in enumerate(samples.which.tolist())
    }


def test_samples_are_the_same_at_the_other_end() -> None:
    sent = told()
    found = convert(ExportMetricsServiceRequest.FromString(metrics.export(sent)), Totals(), MetricsOptions())
    assert (found.rejected, found.source) == (0, "orders/o-1")
    assert by_series(found.samples) == by_series(sent.samples)
    assert set(found.samples.ts.tolist()) == {NOW // 1_000_000}
    types = {name: meta.type for name, meta in found.samples.meta.items()}
    assert types == {"calls_total": "counter", "room_bytes": "gauge", "took_seconds": "histogram", "size": "summary"}


def test_series_that_ended_end_at_the_other_end() -> None:
    sent = told()
    sent.samples.values[:] = STALE
    found = convert(ExportMetricsServiceRequest.FromString(metrics.export(sent)), Totals(), MetricsOptions())
    assert by_series(found.samples).keys() == by_series(sent.samples).keys()
    assert is_stale(found.samples.values).all()


def test_a_histogram_that_is_not_whole_comes_one_by_one() -> None:
    sent = told()
    few = [i for i, one in enumerate(sent.samples.series) if dict(one).get("le") != "+Inf"]
    samples = Samples(
        sent.samples.series, np.array(few, np.int64), sent.samples.ts[: len(few)], sent.samples.values[few]
    )
    found = convert(
        ExportMetricsServiceRequest.FromString(metrics.export(Told(samples, sent.meta))), Totals(), MetricsOptions()
    )
    assert by_series(found.samples) == by_series(samples)


def test_items_are_read_back_from_their_file() -> None:
    table, sent = log_table(), told()
    items = [
        Item(Form.LOGS, table, 6, 1),
        Item(Form.SAMPLES, sent, len(sent.samples), 1),
        Item(Form.OTLP, b"\x0a\x00", 1, 1, ("a", "b")),
    ]
    data = framed(items)
    again = list(unframed(data))
    assert [exported(one) for one in again] == [exported(one) for one in items]
    assert [(one.form, one.records, one.via) for one in again] == [(one.form, one.records, one.via) for one in items]
    for cut in (data[:-1], data[:5], b"\x09" + data[1:]):
        with pytest.raises(ValueError, match=r"cut off|is not a valid"):
            list(unframed(cut))
    with pytest.raises(ValueError, match=r"."):
        exported(Item(Form.LOGS, b"nonsense", 1, 1))


def test_a_large_export_is_divided_always_alike() -> None:
    whole = logs.export(log_table())
    parts = split(Signal.LOGS, whole, 300)
    assert len(parts) > 2
    assert all(len(part) <= 300 for part in parts)
    assert parts == split(Signal.LOGS, whole, 300)

    def told_of(datas: list[bytes]) -> list[tuple[str, str, str]]:
        found = []
        for data in datas:
            for resource in ExportLogsServiceRequest.FromString(data).resource_logs:
                for scope in resource.scope_logs:
                    who = resource.resource.SerializeToString().hex()
                    found += [(who, scope.scope.name, one.body.string_value) for one in scope.log_records]
        return found

    assert told_of(parts) == told_of([whole])
    assert len(split(Signal.LOGS, whole, 1)) == 6, "one record a part, whatever its size"
    with pytest.raises(ValueError, match="no export"):
        split(Signal.LOGS, b"\xff" * 1000, 10)


def test_spans_are_the_same_at_the_other_end() -> None:
    texts: Any = {name: TextColumn(values=[f"{name} of mine"]) for name in ("name", "service", "instance", "version")}
    link = {"trace_id": "0e" * 16, "span_id": "0f" * 8, "trace_state": "a=b", "attributes": {"n": 1}}
    batch = SpanBatch(
        start_ns=[NOW, NOW + 1],
        end_ns=[NOW + 5, NOW + 9],
        trace_id=TextColumn(values=["0a" * 16, "0b" * 16]),
        span_id=TextColumn(values=["0c" * 8, "0d" * 8]),
        parent_span_id=TextColumn(values=["", "0c" * 8]),
        kind=[2, 3],
        status=[0, 2],
        status_message=TextColumn(values=["", "no"]),
        correlation_id=TextColumn(values=["order-7", ""]),
        rpc_method=TextColumn(values=["shop.v1.Orders/Get", ""]),
        rpc_status_code=TextColumn(values=["OK", ""]),
        attributes=TextColumn(values=['{"order.id":7}', "{}"]),
        events=TextColumn(values=[f'[{{"ts_ns":{NOW},"name":"e","attributes":{{"a":1}}}}]', "[]"]),
        links=TextColumn(values=["[]", json.dumps([link])]),
        **texts,
    )
    table, _ = span_records.from_batch(fields_of(batch), NOW + 10)
    again = traces_otlp.from_export(spans.export(table), NOW + 10).table

    def said(rows: pa.Table) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = rows.to_pylist()
        for row in found:
            for name in ("attributes", "events", "links"):
                row[name] = json.loads(row[name])
            for name in ("correlation_id", "rpc.method", "rpc.status_code"):
                row["attributes"].pop(name, None)
        return found

    assert said(again) == said(table)


def test_spans_become_an_export() -> None:
    row = {
        **dict.fromkeys(("parent_span_id", "status_message", "trace_state", "rpc_status_code", "peer_service"), ""),
        "start_ns": NOW,
        "end_ns": NOW + 5,
        "trace_id": "0a" * 16,
        "span_id": "0b" * 8,
        "name": "Orders/Get",
        "kind": 2,
        "status": 2,
        "service": "orders",
        "instance": "o-1",
        "version": "",
        "scope": "grpc",
        "correlation_id": "order-7",
        "rpc_method": "Orders/Get",
        "flags": 1,
        "dropped": 3,
        "attributes": '{"order.id":7}',
        "events": '[{"ts_ns":5,"name":"e","attributes":{"a":1}}]',
        "links": f'[{{"trace_id":"{"0c" * 16}","span_id":"{"0d" * 8}","trace_state":"","attributes":{{}}}}]',
    }
    (resource,) = ExportTraceServiceRequest.FromString(spans.export(pa.Table.from_pylist([row]))).resource_spans
    (span,) = resource.scope_spans[0].spans
    assert (span.name, span.kind, span.status.code, span.trace_id) == ("Orders/Get", 2, 2, bytes.fromhex("0a" * 16))
    attributes = {one.key: one.value for one in span.attributes}
    assert attributes["order.id"].int_value == 7
    assert attributes["correlation_id"].string_value == "order-7"
    assert attributes["rpc.method"].string_value == "Orders/Get"
    assert (span.events[0].name, span.events[0].time_unix_nano, span.links[0].span_id) == ("e", 5, b"\x0d" * 8)
