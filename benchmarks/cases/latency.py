"""What a proxy adds to the latency of a call at a steady load that all can carry.

The load is open: calls begin at random times whatever the answers do, so a proxy that stalls pays for every call that
was due meanwhile. What is added is a percentile through the proxy less the same one without it in the same round.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.bench import Bench
from benchmarks.cases.case import Case, Metric, Numbers
from benchmarks.load import client
from benchmarks.load.client import Done, Load
from benchmarks.peers.peer import Peer

_CONNECTIONS = 4

_METRICS = (
    Metric("added_p50_us", "added latency, p50", "µs", goal=0.85, headline=True, digits=0),
    Metric("added_p99_us", "added latency, p99", "µs", digits=0),
    Metric("cpu_us", "CPU per call", "µs"),
    Metric("direct_p50_us", "p50 without a proxy", "µs", shared=True, digits=0),
    Metric("direct_p99_us", "p99 without a proxy", "µs", shared=True, digits=0),
)


@dataclass(frozen=True)
class Latency(Case):
    """Unary calls at a rate."""

    rate: int
    # By round.
    _direct: dict[int, Done] = field(default_factory=dict, kw_only=True)

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        load = Load("open", connections=_CONNECTIONS, rate=self.rate, varied=True)
        if bench.round not in self._direct:
            # As long as a main peer is measured for in a round.
            seconds = self.slices * bench.seconds
            self._direct[bench.round] = client.run(load, bench.endpoints[0], seconds=seconds, seed=bench.round)
        direct = self._direct[bench.round]
        running = bench.running(peer)
        measured = bench.warm_and_measure(
            running, lambda seconds: client.run(load, running.port, seconds=seconds, seed=bench.round)
        )
        return {
            "added_p50_us": measured.done.p50_us - direct.p50_us,
            "added_p99_us": measured.done.p99_us - direct.p99_us,
            "cpu_us": measured.cpu_us_per_call,
            "direct_p50_us": direct.p50_us,
            "direct_p99_us": direct.p99_us,
        }


def _latency(rate: int) -> Latency:
    title = f"unary at {rate:,} calls/s, {_CONNECTIONS} connections, varied headers"
    return Latency(f"latency-{rate}", title, _METRICS, rate)


CASES = (_latency(500), _latency(1500))
