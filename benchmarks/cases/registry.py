"""All cases, in the order in which they run and are shown."""

from __future__ import annotations

from benchmarks.cases import latency, memory, streaming, unary, workers
from benchmarks.cases.case import Case

CASES: tuple[Case, ...] = (*unary.CASES, *streaming.CASES, *latency.CASES, *memory.CASES, *workers.CASES)
