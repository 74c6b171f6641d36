"""A request of OTLP as samples. Pure."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1 import metrics_pb2

from services.metrics.options import MetricsOptions
from services.metrics.otlp.names import label_name, metric_name, unit_name
from services.metrics.otlp.points import StaleTimeError, Totals, classic, exponential
from services.metrics.promql.data import STALE
from services.metrics.promql.labels import BUCKET, NAME, Labels, from_mapping
from services.metrics.promql.numbers import formatted
from services.metrics.samples import Meta, Samples, source_of

_DELTA = metrics_pb2.AGGREGATION_TEMPORALITY_DELTA
_CUMULATIVE = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
_NONE_RECORDED = metrics_pb2.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
_IDENTIFYING = frozenset({"service.name", "service.namespace", "service.instance.id"})


@dataclass(slots=True)
class Converted:
    """What a request came to."""

    samples: Samples
    # Data points that were refused for good, and a sentence about one of them.
    rejected: int = 0
    reason: str = ""
    # Who sends: "job/instance" of the first resource.
    source: str = "otlp"


@dataclass(slots=True)
class _Out:
    """Samples as they are made."""

    options: MetricsOptions
    totals: Totals
    series: dict[Labels, int] = field(default_factory=dict)
    which: list[int] = field(default_factory=list)
    ts: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    meta: dict[str, Meta] = field(default_factory=dict)

    def add(self, labels: Labels, at_ns: int, value: float) -> None:
        self.which.append(self.series.setdefault(labels, len(self.series)))
        self.ts.append(at_ns // 1_000_000)
        self.values.append(value)


def convert(request: ExportMetricsServiceRequest, totals: Totals, options: MetricsOptions) -> Converted:
    """Return the samples of a request; deltas are staged in `totals`."""
    out = _Out(options, totals)
    rejected, reason, source = 0, "", ""
    for resource in request.resource_metrics:
        own = _resource(resource.resource.attributes)
        source = source or source_of(own.get("job", ""), own.get("instance", ""))
        newest = 0
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point, make in _points(metric, own, out):
                    newest = max(newest, point.time_unix_nano)
                    try:
                        make()
                    except StaleTimeError:
                        continue  # it was taken already: it is being sent again
                    except ValueError as error:
                        rejected, reason = rejected + 1, f"{metric.name[:100]}: {error}"
        _target_info(resource.resource.attributes, own, newest, out)
    samples = Samples(
        list(out.series),
        np.array(out.which, np.int64),
        np.array(out.ts, np.int64),
        np.array(out.values, np.float64),
        out.meta,
    )
    return Converted(samples, rejected, reason, source or "otlp")


def _points(metric: Any, own: Mapping[str, str], out: _Out) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Yield the data points of a metric, each with what makes samples of it."""
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    data = getattr(metric, kind)
    counter = kind == "sum" and data.is_monotonic
    gauge = kind == "gauge" or (kind == "sum" and not counter)
    name = metric_name(metric.name, metric.unit, counter=counter, gauge=gauge)
    type_ = "counter" if counter else "gauge" if gauge else "summary" if kind == "summary" else "histogram"
    out.meta[name] = Meta(type_, unit_name(metric.unit), metric.description[:1000])
    temporality = getattr(data, "aggregation_temporality", _CUMULATIVE)
    for point in data.data_points:

        def make(point: Any = point) -> None:
            if not point.time_unix_nano:
                raise ValueError("a data point has no time")
            if temporality not in {_DELTA, _CUMULATIVE}:
                raise ValueError("its temporality is neither cumulative nor delta")
            numbers = _numbers(kind, point)
            labels = _labels(point.attributes, own, out.options)
            if point.flags & _NONE_RECORDED:
                numbers = dict.fromkeys(numbers, STALE)
            elif temporality == _DELTA:
                key = from_mapping({**labels, NAME: name})
                numbers = out.totals.add(key, point.time_unix_nano, numbers)
            for suffix, value in numbers.items():
                out.add(_named(name, suffix, labels), point.time_unix_nano, value)

        yield point, make


def _numbers(kind: str, point: Any) -> dict[str, float]:
    """Return the values of a data point: by "", "_sum", "_count", or the label that they get, such as "le=0.5"."""
    if kind in {"gauge", "sum"}:
        return {"": float(point.as_int if point.WhichOneof("value") == "as_int" else point.as_double)}
    if kind == "summary":
        if len(point.quantile_values) > 100:
            raise ValueError("a summary has more than 100 quantiles")
        quantiles = {f"quantile={formatted(one.quantile)}": one.value for one in point.quantile_values}
        return {**quantiles, "_sum": point.sum, "_count": float(point.count)}
    if kind == "histogram":
        if len(point.explicit_bounds) > 500:
            raise ValueError("a histogram has more than 500 bounds")
        counts = point.bucket_counts or [point.count]
        buckets = classic(point.explicit_bounds, counts)
    else:
        if not -10 <= point.scale <= 20:
            raise ValueError(f"an exponential histogram has the scale {point.scale}; it must be from -10 to 20")
        buckets = exponential(point)
    made = {f"le={bound}": count for bound, count in buckets.items()}
    if point.HasField("sum"):
        made["_sum"] = point.sum
    return {**made, "_count": float(point.count)}


def _named(name: str, suffix: str, labels: Mapping[str, str]) -> Labels:
    label, equals, value = suffix.partition("=")
    if not equals:
        return from_mapping({**labels, NAME: name + suffix})
    return from_mapping({**labels, NAME: f"{name}_bucket" if label == BUCKET else name, label: value})


def _labels(attributes: Iterable[Any], own: Mapping[str, str], options: MetricsOptions) -> dict[str, str]:
    found: dict[str, str] = {}
    for attribute in attributes:
        name, value = label_name(attribute.key), _text(attribute.value)
        if name in own:
            name = f"exported_{name}"
        found[name] = f"{found[name]};{value}" if name in found else value
    if len(found) > options.max_labels:
        raise ValueError(f"a data point has {len(found)} attributes; at most {options.max_labels} are taken")
    if sum(len(name) + len(value) for name, value in found.items()) > options.max_label_bytes:
        raise ValueError(f"the attributes of a data point are longer than {options.max_label_bytes} bytes")
    return {**found, **own}


def _resource(attributes: Iterable[Any]) -> dict[str, str]:
    """Return the labels that every series of a resource gets."""
    found = {one.key: _text(one.value)[:500] for one in attributes if one.key in _IDENTIFYING}
    job = "/".join(filter(None, (found.get("service.namespace"), found.get("service.name"))))
    pairs = {"job": job, "instance": found.get("service.instance.id", "")}
    return {name: value for name, value in pairs.items() if value}


def _target_info(attributes: Iterable[Any], own: Mapping[str, str], at_ns: int, out: _Out) -> None:
    """Note what else a resource says of itself, for joins."""
    rest = [one for one in attributes if one.key not in _IDENTIFYING]
    if not (rest and own and at_ns):
        return
    try:
        labels = _labels(rest, own, out.options)
    except ValueError:
        return  # it is extra, and too long to be a label set
    out.meta["target_info"] = Meta("gauge", "", "What OpenTelemetry's resource says of the instance.")
    out.add(from_mapping({**labels, NAME: "target_info"}), at_ns, 1.0)


def _text(value: Any) -> str:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return str(value.string_value)
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    if kind == "int_value":
        return str(value.int_value)
    if kind == "double_value":
        return formatted(value.double_value) if math.isfinite(value.double_value) else str(value.double_value)
    return json.dumps(_plain(value, 0), separators=(",", ":")) if kind is not None else ""


def _plain(value: Any, depth: int) -> Any:
    kind = value.WhichOneof("value")
    if depth > 10:
        return "..."
    if kind == "array_value":
        return [_plain(one, depth + 1) for one in value.array_value.values]
    if kind == "kvlist_value":
        return {one.key: _plain(one.value, depth + 1) for one in value.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return getattr(value, kind) if kind is not None else None
