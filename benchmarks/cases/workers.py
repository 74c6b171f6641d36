"""How much more two workers carry than one, while load and endpoints share the machine with them."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.cases.case import Case, Metric, Numbers
from benchmarks.load import client
from benchmarks.load.client import Done, Load
from benchmarks.peers.peer import Peer

_LOAD = Load(connections=64)


@dataclass(frozen=True)
class Workers(Case):
    """Calls a second of two workers over those of one, in the same round, and how long the calls take."""

    def seconds(self, bench: Bench, peer: Peer) -> float:
        return 2 * super().seconds(bench, peer)

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        one, two = (self._measured(bench, peer, workers) for workers in (1, 2))
        return {
            "speedup": two.calls_per_second / one.calls_per_second,
            "calls_s_1": one.calls_per_second,
            "calls_s_2": two.calls_per_second,
            "p50_us_1": one.p50_us,
            "p50_us_2": two.p50_us,
            "p99_us_1": one.p99_us,
            "p99_us_2": two.p99_us,
        }

    def _measured(self, bench: Bench, peer: Peer, workers: int) -> Done:
        running = bench.running(peer, workers)
        measured = bench.warm_and_measure(
            running, lambda seconds: client.run(_LOAD, running.port, seconds=seconds, seed=bench.round)
        )
        return measured.done


_METRICS = (
    Metric("speedup", "two over one", "x", goal=1.0, more_is_better=True, headline=True, digits=2),
    Metric("calls_s_1", "one worker", "/s", more_is_better=True, digits=0),
    Metric("calls_s_2", "two workers", "/s", more_is_better=True, digits=0),
    Metric("p50_us_1", "p50 of a call, one worker", "µs", digits=0),
    Metric("p50_us_2", "p50 of a call, two workers", "µs", digits=0),
    Metric("p99_us_1", "p99 of a call, one worker", "µs", digits=0),
    Metric("p99_us_2", "p99 of a call, two workers", "µs", digits=0),
)

CASES = (
    Workers("workers", "throughput of two workers over one, 64 connections as fast as they go", _METRICS, wide=False),
)
