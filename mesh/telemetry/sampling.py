"""Which traces are kept: a share of all, decided at their begin, and at the end of a span what went wrong or was slow.

Correlation ids and log records are never sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh import tracing
from mesh.options import require
from mesh.resilience.outcome import CANCELLED, OK


@dataclass(frozen=True, slots=True)
class TracingOptions:
    """What is kept of spans."""

    # The share of traces that are kept whole, 0 to 1. It is for traces that begin here: one that comes in says itself
    # whether it is kept.
    sample: float = 1.0
    # Spans of calls that took at least so many seconds are kept all the same, as those that failed are.
    slow_seconds: float = 1.0

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        require(0 <= self.sample <= 1, "tracing.sample must be from 0 to 1")
        require(0 < self.slow_seconds <= 86400, "tracing.slow_seconds must be above 0 and at most 86400")


class Sampler:
    """Decides by `TracingOptions`."""

    __slots__ = ("_bound", "_slow_ns")

    def __init__(self, options: TracingOptions) -> None:
        self._bound = tracing.threshold(options.sample)
        self._slow_ns = options.slow_seconds * 1e9

    def begins(self, trace_id: bytes) -> bool:
        """Tell whether a trace that begins here is sampled; all who ask for the same share agree."""
        return tracing.in_share(trace_id, self._bound)

    def keeps(self, *, sampled: bool, failed: bool, duration_ns: float) -> bool:
        """Tell at the end of a span whether it is kept."""
        return sampled or failed or duration_ns >= self._slow_ns


def has_failed(code: int) -> bool:
    """Tell whether a gRPC status code makes a call's span be kept: it is none of OK and CANCELLED."""
    return code not in (OK, CANCELLED)
