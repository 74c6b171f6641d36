"""How much more two workers carry than one, while load and endpoints share the machine with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.cases.case import Metric, Numbers
from benchmarks.load import client
from benchmarks.load.client import Load
from benchmarks.peers.peer import Peer

_LOAD = Load(connections=64)


@dataclass(frozen=True)
class Workers:
    """Calls a second of two workers over those of one, in the same round."""

    name: str = "workers"
    title: str = "throughput of two workers over one, 64 connections"
    wide: bool = True
    most_rounds: int = 0
    metrics: Sequence[Metric] = (
        Metric("speedup", "two over one", "x", goal=1.0, more_is_better=True, headline=True, digits=2),
        Metric("calls_s_1", "one worker", "/s", more_is_better=True, digits=0),
        Metric("calls_s_2", "two workers", "/s", more_is_better=True, digits=0),
    )

    def missing(self) -> str:
        return ""

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        one, two = (self._calls_per_second(bench, peer, workers) for workers in (1, 2))
        return {"speedup": two / one, "calls_s_1": one, "calls_s_2": two}

    def _calls_per_second(self, bench: Bench, peer: Peer, workers: int) -> float:
        running = bench.running(peer, workers)
        measured = bench.warm_and_measure(
            running, lambda seconds: client.run(_LOAD, running.port, seconds=seconds, seed=bench.round)
        )
        return measured.done.calls_per_second


CASES = (Workers(),)
