"""The metrics of several workers as those of one edge. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

WORKER = "worker"

# A sample's name and its labels, sorted; and the samples of a family.
Key: TypeAlias = "tuple[str, tuple[tuple[str, str], ...]]"

# About a process, so a sum would tell nothing.
_OF_PROCESS = ("process_", "python_")
_LARGEST = frozenset({"mesh_edge_breaker_state", "mesh_edge_config_rejected", "mesh_edge_endpoint_ejected"})
# The edge is as well as the worker that is worst off.
_SMALLEST = frozenset(
    {
        "mesh_edge_config_connected",
        "mesh_edge_config_release",
        "mesh_edge_registry_connected",
        "mesh_edge_registry_revision",
        "mesh_edge_tls_not_after_seconds",
    }
)
_GROWS = frozenset({"counter", "histogram"})
# By this label a family has one series an endpoint, which is gone when the endpoint is.
_ENDPOINT = "endpoint"


class Family:
    """One metric with its samples."""

    __slots__ = ("documentation", "name", "samples", "type")

    def __init__(self, name: str, documentation: str, kind: str) -> None:
        self.name = name
        self.documentation = documentation
        self.type = kind
        self.samples: dict[Key, float] = {}

    def add(self, key: Key, value: float) -> None:
        """Merge one sample in."""
        known = self.samples.get(key)
        if known is None:
            self.samples[key] = value
        elif self.name in _LARGEST:
            self.samples[key] = max(known, value)
        elif self.name in _SMALLEST:
            self.samples[key] = min(known, value)
        else:
            self.samples[key] = known + value

    def metric(self) -> Metric:
        """Return it as the encoders of prometheus_client take it."""
        metric = Metric(self.name, self.documentation, self.type)
        for (name, labels), value in self.samples.items():
            metric.add_sample(name, dict(labels), value)
        return metric


Families: TypeAlias = "dict[str, Family]"


def parse(text: str, worker: str) -> Families:
    """Return what a worker's /metrics says; what it says of its process is labelled with the worker."""
    families = {}
    for metric in text_string_to_metric_families(text):
        family = families[metric.name] = Family(metric.name, metric.documentation, metric.type)
        extra = {WORKER: worker} if metric.name.startswith(_OF_PROCESS) else {}
        for sample in metric.samples:
            family.samples[sample.name, tuple(sorted({**sample.labels, **extra}.items()))] = sample.value
    return families


def merge(all_families: Iterable[Families]) -> Families:
    """Return the metrics of several as those of one."""
    merged: Families = {}
    for families in all_families:
        for name, family in families.items():
            into = merged.get(name)
            if into is None:
                into = merged[name] = Family(name, family.documentation, family.type)
            for key, value in family.samples.items():
                into.add(key, value)
    return merged


def totals(families: Families) -> Families:
    """Return what still counts when the process that said it has ended: what it did, not how it was."""
    return {
        name: family for name, family in families.items() if family.type in _GROWS and not name.startswith(_OF_PROCESS)
    }


def without_departed(ended: Families, live: Mapping[str, Family]) -> Families:
    """Return the totals of ended workers without the endpoints that no live worker knows any more.

    As in an edge of one process, whose series of an endpoint ends with it; else an edge whose workers come and go
    would keep every endpoint that ever was.
    """
    kept: Families = {}
    for name, family in ended.items():
        known = live.get(name)
        into = kept[name] = Family(name, family.documentation, family.type)
        into.samples = {
            key: value
            for key, value in family.samples.items()
            if not _of_endpoint(key) or (known is not None and key in known.samples)
        }
    return kept


def _of_endpoint(key: Key) -> bool:
    return any(label == _ENDPOINT for label, _ in key[1])
