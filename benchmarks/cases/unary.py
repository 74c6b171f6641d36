"""Unary calls as fast as they go: what a call costs, and how many there are a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import tools
from benchmarks.bench import Bench, Measured
from benchmarks.cases.case import Metric, Numbers
from benchmarks.load import client, h2load
from benchmarks.load.client import Load
from benchmarks.peers.peer import Peer

# The part of a second that h2load's calls are counted in is found out while warming up.
_PROBE_CALLS = 2000


@dataclass(frozen=True)
class Unary:
    """Small unary calls, a number of connections with a number of streams each, by the native client."""

    name: str
    title: str
    load: Load
    goal: float
    wide: bool = True
    most_rounds: int = 0

    @property
    def metrics(self) -> Sequence[Metric]:
        return _metrics(self.goal)

    def missing(self) -> str:
        return ""

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        running = bench.running(peer)
        return _numbers(
            bench.warm_and_measure(
                running, lambda seconds: client.run(self.load, running.port, seconds=seconds, seed=bench.round)
            )
        )


@dataclass(frozen=True)
class ByH2load:
    """The same by h2load, whose headers never change, which HPACK makes cheap for everybody."""

    name: str = "unary-4x16-h2load"
    title: str = "unary, 4 connections x 16 streams, same headers, by h2load"
    wide: bool = True
    most_rounds: int = 0

    @property
    def metrics(self) -> Sequence[Metric]:
        return _metrics(None)

    def missing(self) -> str:
        return "" if tools.find("h2load") else "h2load is not installed"

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        running = bench.running(peer)

        def load(calls: int) -> client.Done:
            return h2load.run(running.port, connections=4, streams=16, calls=calls, folder=bench.folder)

        rate = load(_PROBE_CALLS).calls_per_second
        return _numbers(bench.measure(running, lambda: load(max(_PROBE_CALLS, int(rate * bench.seconds)))))


def _metrics(goal: float | None) -> Sequence[Metric]:
    return (
        Metric("cpu_us", "CPU per call", "µs", goal=goal, headline=True),
        Metric("calls_s", "calls per second", "/s", more_is_better=True, digits=0),
        Metric("cpu_share", "processor used", "of a core", digits=2),
    )


def _numbers(measured: Measured) -> Numbers:
    return {
        "cpu_us": measured.cpu_us_per_call,
        "calls_s": measured.done.calls_per_second,
        "cpu_share": measured.cpu_seconds / measured.done.seconds,
    }


CASES = (
    Unary(
        "unary-4x16",
        "unary, 4 connections x 16 streams, varied headers",
        Load(connections=4, streams=16, varied=True),
        goal=0.70,
    ),
    Unary("unary-64x1", "unary, 64 connections x 1 stream", Load(connections=64), goal=0.60),
    Unary("unary-1x1", "unary, 1 x 1 (latency bound)", Load(), goal=0.80),
    ByH2load(),
)
