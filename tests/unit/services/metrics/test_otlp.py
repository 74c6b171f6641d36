"""OpenTelemetry's metrics as Prometheus' series."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from services.metrics.options import MetricsOptions
from services.metrics.otlp.convert import Converted, convert
from services.metrics.otlp.names import label_name, metric_name
from services.metrics.otlp.points import Totals, classic, exponential
from services.metrics.promql.data import is_stale
from tests.unit.services.metrics.helpers import NOW, labels

T = NOW * 1_000_000
CUMULATIVE, DELTA = pb.AGGREGATION_TEMPORALITY_CUMULATIVE, pb.AGGREGATION_TEMPORALITY_DELTA
ME = {"job": "shop/cart", "instance": "cart-1"}


def text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def request(*metrics: pb.Metric, extra: tuple[KeyValue, ...] = ()) -> ExportMetricsServiceRequest:
    made = ExportMetricsServiceRequest()
    resource = made.resource_metrics.add()
    names = {"service.name": "cart", "service.namespace": "shop", "service.instance.id": "cart-1"}
    resource.resource.attributes.extend([text(*pair) for pair in names.items()])
    resource.resource.attributes.extend(extra)
    resource.scope_metrics.add().metrics.extend(metrics)
    return made


def number(value: float, at: int = T, **attributes: str) -> pb.NumberDataPoint:
    return pb.NumberDataPoint(
        time_unix_nano=at, as_double=value, attributes=[text(*pair) for pair in attributes.items()]
    )


def counter(*points: pb.NumberDataPoint, temporality: Any = CUMULATIVE, monotonic: bool = True) -> pb.Metric:
    data = pb.Sum(data_points=points, aggregation_temporality=temporality, is_monotonic=monotonic)
    return pb.Metric(name="rpc.server.calls", unit="{call}", sum=data)


def run(given: ExportMetricsServiceRequest, totals: Totals | None = None) -> Converted:
    return convert(given, totals or Totals(), MetricsOptions())


def values(found: Converted) -> dict[Any, list[float]]:
    made: dict[Any, list[float]] = {}
    for which, value in zip(found.samples.which, found.samples.values, strict=True):
        made.setdefault(found.samples.series[which], []).append(float(value))
    return made


def test_gauges_and_sums() -> None:
    gauge = pb.Metric(name="process.memory.usage", unit="By", gauge=pb.Gauge(data_points=[number(5, state="rss")]))
    found = run(request(gauge, counter(number(3)), extra=(text("host.name", "h1"),)))
    assert values(found) == {
        labels("process_memory_usage_bytes", state="rss", **ME): [5],
        labels("rpc_server_calls_total", **ME): [3],
        labels("target_info", host_name="h1", **ME): [1],
    }
    assert found.samples.ts.tolist() == [NOW] * 3
    assert found.samples.meta["process_memory_usage_bytes"].type == "gauge"
    assert found.source == "shop/cart/cart-1"


def test_deltas_are_added_up_once() -> None:
    totals, name = Totals(), labels("rpc_server_calls_total", **ME)
    first = request(counter(number(3, T), temporality=DELTA))
    assert values(run(first, totals))[name] == [3]
    totals.drop()  # it could not be stored, and comes again
    assert values(run(first, totals))[name] == [3]
    totals.commit()
    assert values(run(first, totals)) == {}
    assert values(run(request(counter(number(4, T + 1), number(5, T + 2), temporality=DELTA)), totals))[name] == [7, 12]


def test_histograms() -> None:
    point = pb.HistogramDataPoint(time_unix_nano=T, count=6, sum=4.5, bucket_counts=[1, 2, 3], explicit_bounds=[0.5, 1])
    data = pb.Histogram(data_points=[point], aggregation_temporality=CUMULATIVE)
    found = values(run(request(pb.Metric(name="rpc.duration", unit="s", histogram=data))))
    bucket = {le: found[labels("rpc_duration_seconds_bucket", le=le, **ME)] for le in ("0.5", "1", "+Inf")}
    assert bucket == {"0.5": [1], "1": [3], "+Inf": [6]}
    assert found[labels("rpc_duration_seconds_sum", **ME)] == [4.5]
    assert found[labels("rpc_duration_seconds_count", **ME)] == [6]


def test_summaries_and_missing_values() -> None:
    quantile = pb.SummaryDataPoint.ValueAtQuantile(quantile=0.5, value=2)
    point = pb.SummaryDataPoint(time_unix_nano=T, count=3, sum=6, quantile_values=[quantile])
    gone = number(0)
    gone.flags = pb.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
    found = run(request(pb.Metric(name="s", summary=pb.Summary(data_points=[point])), counter(gone)))
    assert values(found)[labels("s", quantile="0.5", **ME)] == [2]
    assert is_stale(found.samples.values).tolist() == [False, False, False, True]


def test_exponential_histograms_get_bounds_on_one_grid() -> None:
    point = pb.ExponentialHistogramDataPoint(count=10, zero_count=2, scale=3)
    point.positive.offset = 0
    point.positive.bucket_counts.extend([1] * 8)  # from 1 to 2, in eight
    assert exponential(point) == {"1": 2, "1.4142135623730951": 6, "2": 10, "+Inf": 10}
    coarse = pb.ExponentialHistogramDataPoint(count=3, scale=-1)
    coarse.positive.offset = 0
    coarse.positive.bucket_counts.extend([1, 2])
    assert exponential(coarse) == {"1": 0, "4": 1, "16": 3, "+Inf": 3}
    wide = pb.ExponentialHistogramDataPoint(count=20_000, scale=20)
    wide.positive.bucket_counts.extend([1] * 20_000)
    made = exponential(wide)
    assert made["+Inf"] == 20_000
    assert len(made) <= 202
    assert list(made.values()) == sorted(made.values())


def test_bad_points_are_refused_one_by_one() -> None:
    bad = pb.HistogramDataPoint(time_unix_nano=T, bucket_counts=[1, 2], explicit_bounds=[1, 2])
    histogram = pb.Metric(name="h", histogram=pb.Histogram(data_points=[bad], aggregation_temporality=CUMULATIVE))
    long = number(1, key="x" * 10_000)
    found = run(request(histogram, counter(number(1), number(2, 0), long), counter(number(1), temporality=0)))
    assert found.rejected == 4
    assert values(found) == {labels("rpc_server_calls_total", **ME): [1]}
    assert "temporality" in found.reason


def test_bounds_must_ascend() -> None:
    for bounds in ([2.0, 1.0], [1.0, 1.0], [float("nan")], [float("inf")]):
        with pytest.raises(ValueError, match="ascend"):
            classic(bounds, [0] * (len(bounds) + 1))


@pytest.mark.parametrize(
    ("name", "unit", "counter", "gauge", "made"),
    [
        ("http.server.duration", "ms", False, False, "http_server_duration_milliseconds"),
        ("bytes.sent_total", "By", True, False, "bytes_sent_bytes_total"),
        ("cpu.use", "1", False, True, "cpu_use_ratio"),
        ("speed", "km/h", False, True, "speed_km_per_hour"),
        ("9 lives!", "", False, True, "_9_lives"),
        ("queue", "{items}", False, True, "queue"),
    ],
)
def test_names(name: str, unit: str, *, counter: bool, gauge: bool, made: str) -> None:
    assert metric_name(name, unit, counter=counter, gauge=gauge) == made


def test_labels() -> None:
    assert [label_name(name) for name in ("http.method", "1st", "ok")] == ["http_method", "key_1st", "ok"]
    odd = pb.NumberDataPoint(time_unix_nano=T, as_int=1)
    odd.attributes.extend(
        [
            KeyValue(key="a.b", value=AnyValue(int_value=1)),
            KeyValue(key="a/b", value=AnyValue(bool_value=True)),
            KeyValue(key="job", value=AnyValue(array_value=ArrayValue(values=[AnyValue(string_value="x")]))),
        ]
    )
    found = values(run(request(counter(odd))))
    assert found == {labels("rpc_server_calls_total", a_b="1;true", exported_job='["x"]', **ME): [1]}
