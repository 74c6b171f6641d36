"""What a connection and a stream that do nothing hold, and whether calls leave anything behind."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.cases.case import Case, Metric, Numbers
from benchmarks.load import client
from benchmarks.load.client import Load
from benchmarks.peers.peer import Peer, Running

_WARM_CALLS = 2000
_SETTLE_SECONDS = 1.0

_CONNECTIONS = 1000
_STREAMS = 2000
# A hundred streams each: below every peer's limit.
_STREAM_CONNECTIONS = 20

_MANY = 1_000_000
_FEW = 100_000
# One smallest object (16 bytes) left behind by each call would come to 14 MiB, 1.18 times. Within this, memory moves
# up and down by itself, with how many lines of the access log wait when it is written.
_STILL = 1.05


@dataclass(frozen=True)
class Held(Case):
    """Resident memory of a fresh peer that holds connections, then streams."""

    def seconds(self, bench: Bench, peer: Peer) -> float:
        return 8

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        with bench.fresh(peer) as running:
            client.run(Load(connections=4, streams=16), running.port, calls=_WARM_CALLS)
            time.sleep(_SETTLE_SECONDS)
            start = running.started.resident_kib()
            connections = _held(running, _CONNECTIONS, 0) - start
        # Another process: memory that the connections gave back would hide what the streams take.
        with bench.fresh(peer) as running:
            client.run(Load(connections=4, streams=16), running.port, calls=_WARM_CALLS)
            without = _held(running, _STREAM_CONNECTIONS, 0)
            streams = _held(running, _STREAM_CONNECTIONS, _STREAMS) - without
        return {
            "connection_kib": connections / _CONNECTIONS,
            "stream_kib": streams / _STREAMS,
            "start_mib": start / 1024,
        }


@dataclass(frozen=True)
class Growth(Case):
    """Resident memory of a fresh peer after many calls against after a tenth of them."""

    def seconds(self, bench: Bench, peer: Peer) -> float:
        return _MANY / _part(bench) / 8000

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        part = _part(bench)
        load = Load(connections=4, streams=16, varied=True)
        with bench.fresh(peer) as running:
            client.run(load, running.port, calls=_FEW // part)
            time.sleep(_SETTLE_SECONDS)
            few = running.started.resident_kib()
            client.run(load, running.port, calls=(_MANY - _FEW) // part, seed=2)
            time.sleep(_SETTLE_SECONDS)
            many = running.started.resident_kib()
        return {
            "growth": many / few,
            "few_mib": few / 1024,
            "many_mib": many / 1024,
            "difference_mib": (many - few) / 1024,
            "bytes_a_call": (many - few) * 1024 / ((_MANY - _FEW) // part),
        }


def _part(bench: Bench) -> int:
    return 20 if bench.quick else 1


def _held(running: Running, connections: int, streams: int) -> float:
    """Return what a peer's memory is, in KiB, while a client holds so much."""
    with client.held(running.port, connections, streams):
        time.sleep(_SETTLE_SECONDS)
        kib = running.started.resident_kib()
    time.sleep(_SETTLE_SECONDS)
    return kib


CASES = (
    Held(
        "memory",
        f"memory of {_CONNECTIONS:,} idle connections, of {_STREAMS:,} idle bidi streams",
        (
            Metric("connection_kib", "per idle connection", "KiB", goal=0.7, headline=True),
            Metric("stream_kib", "per open idle stream", "KiB", goal=0.2, headline=True),
            Metric("start_mib", "resident at the start", "MiB"),
        ),
        # It hardly differs from one to the next.
        most_others_rounds=1,
        slices=1,
    ),
    Growth(
        "growth",
        f"resident memory after {_MANY:,} calls against after {_FEW:,} (a twentieth of both with --quick)",
        (
            Metric("growth", "after many over after few", "", goal=_STILL, absolute=True, headline=True, digits=3),
            Metric("few_mib", "after few", "MiB"),
            Metric("many_mib", "after many", "MiB"),
            Metric("difference_mib", "difference", "MiB"),
            Metric("bytes_a_call", "difference by call", "bytes", digits=2),
        ),
        # The others are no question here, and some would take minutes for it.
        only=("edge-wire",),
        most_rounds=1,
        slices=1,
    ),
)
