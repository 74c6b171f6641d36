"""Samples of Prometheus' kind as an export of OTLP: counters, gauges, classic histograms and summaries. Pure.

Names stay as they are, with the unit in them, so that who makes Prometheus' names of OTLP's gets the same ones again.
The series of a histogram become one data point again; where one of them is missing they are sent one by one, as gauges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK,
)

from mesh.api.metrics import v1
from services.forwarding.values import identity
from services.metrics.promql.data import is_stale
from services.metrics.promql.labels import NAME
from services.metrics.samples import Meta, Samples

TYPES = {
    "counter": v1.METRIC_TYPE_COUNTER,
    "gauge": v1.METRIC_TYPE_GAUGE,
    "histogram": v1.METRIC_TYPE_HISTOGRAM,
    "summary": v1.METRIC_TYPE_SUMMARY,
}
_SUFFIXES = ("_bucket", "_count", "_sum")
_NOT_RECORDED = DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
# A histogram's or summary's bound is in this label.
_BOUNDS = {v1.METRIC_TYPE_HISTOGRAM: "le", v1.METRIC_TYPE_SUMMARY: "quantile"}


@dataclass(frozen=True, slots=True)
class Told:
    """Samples, and what is known of their metrics."""

    samples: Samples
    meta: Mapping[str, Meta]


def encoded(told: Told) -> bytes:
    """Return samples as a request that defines all its series."""
    samples, request = told.samples, v1.PushRequest()
    for ref, labels in enumerate(samples.series):
        found = dict(labels)
        meta = told.meta.get(found[NAME], Meta())
        request.series.add(
            ref=ref,
            labels=found,
            type=TYPES.get(meta.type, 0),
            unit=meta.unit,
            help=meta.help,
        )
    request.refs.extend(samples.which.tolist())
    request.times_ms.extend(samples.ts.tolist())
    request.values.extend(samples.values.tolist())
    return request.SerializeToString()


@dataclass(slots=True)
class _Composed:
    """A histogram or a summary at one moment, as its series come together."""

    # By bound.
    parts: dict[float, float] = field(default_factory=dict)
    count: float | None = None
    sum: float | None = None
    ended: bool = False
    # Its samples one by one, for when it is not whole: name, labels, value.
    single: list[tuple[str, dict[str, str], float]] = field(default_factory=list)


def export(content: Told | bytes) -> bytes:
    """Return samples as an export of OTLP; raises ValueError when the bytes are no request."""
    data = encoded(content) if isinstance(content, Told) else content
    try:
        request = v1.PushRequest.FromString(data)
    except Exception as error:
        raise ValueError(f"it is no request: {error}") from error
    return _Export(request).request.SerializeToString()


class _Export:
    def __init__(self, request: v1.PushRequest) -> None:
        self.request = ExportMetricsServiceRequest()
        self._scopes: dict[tuple[str, str], Any] = {}
        self._metrics: dict[tuple[str, str, str, str], Any] = {}
        composed: dict[tuple[str, int, frozenset[tuple[str, str]], int], _Composed] = {}
        values = np.array(request.values, np.float64)
        stale = is_stale(values).tolist()
        series = [(one, dict(one.labels)) for one in request.series]
        for ref, at_ms, value, ended in zip(request.refs, request.times_ms, values.tolist(), stale, strict=True):
            definition, labels = series[ref]
            name, rest = labels[NAME], {key: text for key, text in labels.items() if key != NAME}
            if definition.type in _BOUNDS:
                bound = rest.pop(_BOUNDS[definition.type], "")
                base = name if bound and definition.type == v1.METRIC_TYPE_SUMMARY else _base(name)
                key = (base, definition.type, frozenset(rest.items()), at_ms)
                one = composed.setdefault(key, _Composed())
                _compose(one, name, bound, value)
                one.ended = one.ended or ended
                one.single.append((name, labels, value))
                continue
            kind = "sum" if definition.type == v1.METRIC_TYPE_COUNTER else "gauge"
            self._number(kind, name, rest, at_ms, value, ended=ended, help_=definition.help)
        for (base, type_, rest_, at_ms), one in composed.items():
            self._composed(base, type_, dict(rest_), at_ms, one)

    def _composed(self, base: str, type_: int, rest: Mapping[str, str], at_ms: int, one: _Composed) -> None:
        whole = one.count is not None
        if type_ == v1.METRIC_TYPE_HISTOGRAM and whole and math.inf in one.parts:
            point = self._metric("histogram", base, rest, "").data_points.add()
            bounds = sorted(one.parts)
            point.explicit_bounds.extend(bounds[:-1])
            totals = [0.0 if one.ended else one.parts[bound] for bound in bounds]
            counts = [after - before for before, after in zip([0.0, *totals], totals, strict=False)]
            point.bucket_counts.extend(max(0, round(count)) for count in counts)
            point.count = 0 if one.ended else max(0, round(one.count or 0))
        elif type_ == v1.METRIC_TYPE_SUMMARY and whole:
            point = self._metric("summary", base, rest, "").data_points.add()
            for quantile, value in sorted(one.parts.items()):
                point.quantile_values.add(quantile=quantile, value=0.0 if one.ended else value)
            point.count = 0 if one.ended else max(0, round(one.count or 0))
        else:
            for name, labels, value in one.single:
                own = {key: text for key, text in labels.items() if key != NAME}
                self._number("gauge", name, own, at_ms, value, ended=one.ended, help_="")
            return
        if one.sum is not None:
            point.sum = 0.0 if one.ended else one.sum
        self._finish(point, rest, at_ms, ended=one.ended)

    def _number(
        self, kind: str, name: str, rest: Mapping[str, str], at_ms: int, value: float, *, ended: bool, help_: str
    ) -> None:
        point = self._metric(kind, name, rest, help_).data_points.add()
        point.as_double = 0.0 if ended else value
        self._finish(point, rest, at_ms, ended=ended)

    def _finish(self, point: Any, rest: Mapping[str, str], at_ms: int, *, ended: bool) -> None:
        point.time_unix_nano = at_ms * 1_000_000
        if ended:
            point.flags = _NOT_RECORDED
        for key, text in rest.items():
            if key not in ("job", "instance"):
                point.attributes.add(key=key).value.string_value = text

    def _metric(self, kind: str, name: str, rest: Mapping[str, str], help_: str) -> Any:
        who = (rest.get("job", ""), rest.get("instance", ""))
        found = self._metrics.get((kind, name, *who))
        if found is not None:
            return found
        scope = self._scopes.get(who)
        if scope is None:
            resource = self.request.resource_metrics.add()
            resource.resource.attributes.extend(identity(*who))
            scope = self._scopes[who] = resource.scope_metrics.add()
        made = scope.metrics.add(name=name, description=help_)
        found = self._metrics[(kind, name, *who)] = getattr(made, kind)
        if kind == "sum":
            found.is_monotonic = True
        if kind in ("sum", "histogram"):
            found.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        found.SetInParent()
        return found


def _base(name: str) -> str:
    return next((name[: -len(suffix)] for suffix in _SUFFIXES if name.endswith(suffix)), name)


def _compose(one: _Composed, name: str, bound: str, value: float) -> None:
    if bound:
        try:
            one.parts[float(bound)] = value
        except ValueError:
            one.count = None  # it is no bound: then one by one
    elif name.endswith("_sum"):
        one.sum = value
    else:
        one.count = value
