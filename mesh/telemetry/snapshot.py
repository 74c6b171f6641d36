"""What a registry of prometheus-client says at one moment, as series and values. Pure, but for the collectors."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.api.metrics.v1 import (
    METRIC_TYPE_COUNTER,
    METRIC_TYPE_GAUGE,
    METRIC_TYPE_HISTOGRAM,
    METRIC_TYPE_SUMMARY,
    METRIC_TYPE_UNSPECIFIED,
    SeriesDefinition,
)

# The value that Prometheus ends a series with: a NaN of its own.
STALE: float = struct.unpack("<d", (0x7FF0000000000002).to_bytes(8, "little"))[0]

# What the metrics service takes; one series that is more would have a whole push refused.
MAX_LABELS = 64
MAX_LABEL_BYTES = 4096
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

_TYPES = {
    "counter": METRIC_TYPE_COUNTER,
    "gauge": METRIC_TYPE_GAUGE,
    "histogram": METRIC_TYPE_HISTOGRAM,
    "summary": METRIC_TYPE_SUMMARY,
}

Labels: TypeAlias = tuple[tuple[str, str], ...]


def counts_up(name: str, kind: str) -> bool:
    """Tell whether a series of this name, of a metric of this type, begins at 0 and only grows.

    To a rate the first value of a series says nothing: what came to 100 between two looks would count as nothing at
    all, and so would the first errors of a service. But a series that was not there at the look before was 0 then.
    """
    return kind == "counter" or (kind in {"histogram", "summary"} and name.endswith(("_bucket", "_count", "_sum")))


@dataclass(frozen=True, slots=True)
class Series:
    """A series with its target's labels, `__name__` among them, by name."""

    labels: Labels
    type: str
    unit: str
    help: str

    def defined(self, ref: int) -> SeriesDefinition:
        return SeriesDefinition(
            ref=ref,
            labels=dict(self.labels),
            type=_TYPES.get(self.type, METRIC_TYPE_UNSPECIFIED),
            unit=self.unit,
            help=self.help,
        )


class Snapshots:
    """Reads a registry again and again; knows which series have come to an end."""

    def __init__(self, registry: Collector, target: Mapping[str, str], max_series: int) -> None:
        """Give every series the labels `target`; its own of these names get `exported_` before them."""
        self._registry = registry
        self._target = dict(target)
        self._max = max_series
        self._series: dict[Labels, Series] = {}
        # Whether there was a snapshot before, and the series of the last one that began after it, at 0.
        self._begun = False
        self.born: dict[Series, float] = {}
        # Series that were left out of the last snapshot: too many, or not what the service takes.
        self.refused = 0

    def take(self) -> dict[Series, float]:
        """Return the values as they are now, and `STALE` for series that were there the last time only."""
        found: dict[Labels, Series] = {}
        values: dict[Series, float] = {}
        self.refused = 0
        for metric in self._registry.collect():
            for labels, value in self._samples(metric):
                if labels in found:
                    continue  # it comes twice: the first one counts
                series = self._series.get(labels)
                if series is None:
                    if len(found) >= self._max or not _taken(labels):
                        self.refused += 1
                        continue
                    series = Series(labels, metric.type, metric.unit[:100], metric.documentation[:1000])
                found[labels] = series
                values[series] = value
        for labels, series in self._series.items():
            if labels not in found:
                values[series] = STALE
        new = found.items() - self._series.items() if self._begun else ()
        self.born = {one: 0.0 for labels, one in new if counts_up(dict(labels)["__name__"], one.type)}
        self._series, self._begun = found, True
        return values

    def end(self) -> dict[Series, float]:
        """Return `STALE` for all series that are there."""
        ended, self._series = self._series, {}
        return dict.fromkeys(ended.values(), STALE)

    def _samples(self, metric: Metric) -> Iterator[tuple[Labels, float]]:
        target = self._target
        for sample in metric.samples:
            if sample.name.endswith("_created") and metric.type in {"counter", "histogram", "summary"}:
                continue  # when a counter began: of no use to PromQL, and a series for each
            own = {(f"exported_{name}" if name in target else name): text for name, text in sample.labels.items()}
            labels = {**own, **target, "__name__": sample.name}
            yield tuple(sorted((name, str(text)) for name, text in labels.items() if text)), float(sample.value)


def _taken(labels: Labels) -> bool:
    return (
        len(labels) <= MAX_LABELS
        and sum(len(name) + len(text) for name, text in labels) <= MAX_LABEL_BYTES
        and all(_METRIC.fullmatch(text) if name == "__name__" else _LABEL.fullmatch(name) for name, text in labels)
    )
