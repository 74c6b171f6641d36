"""What a proxy adds to the latency of a call at a steady load that all can carry.

The load is open: calls begin at random times whatever the answers do, so a proxy that stalls pays for every call that
was due meanwhile. What is added is a percentile through the proxy less the same one without it in the same round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.bench import Bench
from benchmarks.cases.case import Metric, Numbers
from benchmarks.load import client
from benchmarks.load.client import Done, Load
from benchmarks.peers.peer import Peer

_CONNECTIONS = 4

_METRICS = (
    Metric("added_p50_us", "added latency, p50", "µs", goal=0.85, headline=True, digits=0),
    Metric("added_p99_us", "added latency, p99", "µs", digits=0),
    Metric("cpu_us", "CPU per call", "µs"),
    Metric("direct_p50_us", "p50 without a proxy", "µs", digits=0),
)


@dataclass(frozen=True)
class Latency:
    """Unary calls at a rate."""

    rate: int
    wide: bool = True
    most_rounds: int = 0
    metrics: Sequence[Metric] = _METRICS
    # By round.
    _direct: dict[int, Done] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"latency-{self.rate}"

    @property
    def title(self) -> str:
        return f"unary at {self.rate:,} calls/s, {_CONNECTIONS} connections, varied headers"

    def missing(self) -> str:
        return ""

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        load = Load("open", connections=_CONNECTIONS, rate=self.rate, varied=True)
        seconds = 2 * bench.seconds
        if bench.round not in self._direct:
            self._direct[bench.round] = client.run(load, bench.endpoints[0], seconds=seconds, seed=bench.round)
        direct = self._direct[bench.round]
        running = bench.running(peer)
        client.run(load, running.port, seconds=bench.warm_up_seconds, seed=bench.round)
        measured = bench.measure(running, lambda: client.run(load, running.port, seconds=seconds, seed=bench.round))
        return {
            "added_p50_us": measured.done.p50_us - direct.p50_us,
            "added_p99_us": measured.done.p99_us - direct.p99_us,
            "cpu_us": measured.cpu_us_per_call,
            "direct_p50_us": direct.p50_us,
        }


CASES = (Latency(500), Latency(1500))
