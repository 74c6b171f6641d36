"""Unary calls as fast as they go: what a call costs, and how many there are a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import tools
from benchmarks.bench import Bench, Measured
from benchmarks.cases.case import Case, Metric, Numbers
from benchmarks.load import client, h2load
from benchmarks.load.client import Done, Load
from benchmarks.peers.peer import Peer


def _metrics(goal: float | None = None) -> Sequence[Metric]:
    return (
        Metric("cpu_us", "CPU per call", "µs", goal=goal, headline=True),
        Metric("calls_s", "calls per second", "/s", more_is_better=True, digits=0),
        Metric("cpu_share", "processor used", "of a core", digits=2),
    )


@dataclass(frozen=True)
class Unary(Case):
    """Small unary calls, a number of connections with a number of streams each, by the native client."""

    load: Load

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        running = bench.running(peer)
        return _numbers(
            bench.warm_and_measure(
                running, lambda seconds: client.run(self.load, running.port, seconds=seconds, seed=bench.round)
            )
        )


@dataclass(frozen=True)
class ByH2load(Case):
    """The same by h2load, whose headers never change, which HPACK makes cheap for everybody; in plaintext or by TLS."""

    connections: int
    streams: int
    tls: bool = False

    def missing(self) -> str:
        return "" if tools.find("h2load") else "h2load is not installed"

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        running = bench.running(peer, tls=self.tls)

        def load(seconds: float) -> Done:
            return h2load.run(
                running.port,
                connections=self.connections,
                streams=self.streams,
                seconds=seconds,
                folder=bench.folder,
                tls=self.tls,
            )

        return _numbers(bench.warm_and_measure(running, load))


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
        _metrics(0.70),
        Load(connections=4, streams=16, varied=True),
    ),
    Unary("unary-64x1", "unary, 64 connections x 1 stream", _metrics(0.60), Load(connections=64)),
    Unary("unary-1x1", "unary, 1 x 1 (latency bound)", _metrics(0.80), Load()),
    ByH2load(
        "unary-4x16-h2load",
        "unary, 4 connections x 16 streams, same headers, by h2load",
        _metrics(),
        4,
        16,
        wide=False,
    ),
    ByH2load("tls-4x16", "TLS 1.3 on the listener, 4 x 16, by h2load", _metrics(), 4, 16, tls=True, wide=False),
    ByH2load("tls-64x1", "TLS 1.3 on the listener, 64 x 1, by h2load", _metrics(), 64, 1, tls=True, wide=False),
)
