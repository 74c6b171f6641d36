"""One stream of `Push`: the series that it has defined, and its requests as samples. Pure."""

from __future__ import annotations

import re

import numpy as np

from mesh.api.metrics import v1
from services.metrics.errors import InvalidError
from services.metrics.options import MetricsOptions
from services.metrics.promql.labels import NAME, Labels, from_mapping, get
from services.metrics.samples import Meta, Samples, source_of

MAX_SERIES = 1_000_000
MAX_SAMPLES = 1_000_000
_PRODUCER = re.compile(r"[!-~]{1,200}")
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_TYPES = {
    v1.METRIC_TYPE_COUNTER: "counter",
    v1.METRIC_TYPE_GAUGE: "gauge",
    v1.METRIC_TYPE_HISTOGRAM: "histogram",
    v1.METRIC_TYPE_SUMMARY: "summary",
}


class PushedSeries:
    """The series that a stream has defined, by their numbers."""

    def __init__(self, options: MetricsOptions) -> None:
        self._options = options
        self._labels: list[Labels] = []
        # "job/instance" of the series that came first: who sends, as for OpenTelemetry's metrics and for scrapes.
        self.source = ""

    def samples(self, request: v1.PushRequest) -> Samples:
        """Return the samples of a request.

        Raises:
            InvalidError: it makes no sense; nothing of it is taken.

        """
        if not _PRODUCER.fullmatch(request.producer) or not request.seq:
            raise InvalidError(
                "producer, seq: 1-200 printable characters that name who sends, and a number from 1 on, are needed"
            )
        meta = self._define(request)
        count = len(request.refs)
        if not count == len(request.times_ms) == len(request.values):
            raise InvalidError(
                f"refs, times_ms and values have {count}, {len(request.times_ms)} and {len(request.values)} entries: "
                "they must have the same number"
            )
        if count > MAX_SAMPLES:
            raise InvalidError(f"refs: a request has {count} samples; at most {MAX_SAMPLES} are taken")
        which = np.array(request.refs, np.int64)
        if count and int(which.max()) >= len(self._labels):
            raise InvalidError(f"refs: {which.max()} was not defined on this stream")
        series = self._labels
        if count < len(series):  # many series, of which few are meant
            used, which = np.unique(which, return_inverse=True)
            series = [series[i] for i in used.tolist()]
        return Samples(series, which, np.array(request.times_ms, np.int64), np.array(request.values, np.float64), meta)

    def _define(self, request: v1.PushRequest) -> dict[str, Meta]:
        """Take the definitions of a request, all or none."""
        made: list[Labels] = []
        meta: dict[str, Meta] = {}
        for definition in request.series:
            if definition.ref != len(self._labels) + len(made):
                raise InvalidError(f"series.ref: {definition.ref} is not the next number of this stream")
            labels = from_mapping(definition.labels)
            self._check(labels)
            made.append(labels)
            name = definition.labels[NAME]
            meta[name] = Meta(_TYPES.get(definition.type, "unknown"), definition.unit[:100], definition.help[:1000])
        if len(self._labels) + len(made) > MAX_SERIES:
            raise InvalidError(f"series: a stream may define {MAX_SERIES}")
        self._labels = [*self._labels, *made] if made else self._labels
        if not self.source and made:
            self.source = source_of(get(made[0], "job"), get(made[0], "instance"))
        return meta

    def _check(self, labels: Labels) -> None:
        found = dict(labels)
        if not _METRIC.fullmatch(found.get(NAME, "")):
            raise InvalidError(f"series.labels: '{found.get(NAME, '')[:100]}' in __name__ cannot name a metric")
        if len(found) > self._options.max_labels:
            raise InvalidError(f"series.labels: {len(found)} of them; at most {self._options.max_labels} are taken")
        for name in found:
            if not _LABEL.fullmatch(name):
                raise InvalidError(f"series.labels: '{name[:100]}' cannot name a label")
        if sum(len(name) + len(value) for name, value in labels) > self._options.max_label_bytes:
            raise InvalidError(f"series.labels: they are longer than {self._options.max_label_bytes} bytes")
