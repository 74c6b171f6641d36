"""Samples on their way in: columns, beside the series that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.metrics.promql.data import Floats, Ints
from services.metrics.promql.labels import Labels


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known of a metric: its type as Prometheus names it, its unit and what it is."""

    type: str = "unknown"
    unit: str = ""
    help: str = ""


@dataclass(slots=True)
class Samples:
    """Sample i is `values[i]` of the series `series[which[i]]` at `ts[i]`, in milliseconds."""

    series: Sequence[Labels]
    which: Ints
    ts: Ints
    values: Floats
    # By the name of the metric.
    meta: Mapping[str, Meta] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of samples."""

    # How many are durable; those that had been stored before included.
    accepted: int
    # By reason, how many were refused for good.
    rejected: Mapping[str, int]
    # Of the producer, if there is one.
    durable_seq: int = 0
    duplicate: bool = False

    @property
    def reason(self) -> str:
        """One sentence about what was refused, "" for nothing."""
        return "; ".join(f"{count} samples: {why}" for why, count in self.rejected.items())


def source_of(job: str, instance: str) -> str:
    """Return the name under which the series of one instance are counted, however they come; "" for nobody's."""
    return f"{job}/{instance}".strip("/")
