"""Streams and large messages: what a megabyte costs, and how many there are a second.

Megabytes are what the client sent and what it received, together, with the five bytes before each message.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.cases.case import Case, Metric, Numbers
from benchmarks.load import client
from benchmarks.load.client import Load
from benchmarks.peers.peer import Peer

_KIB = 1024
_MIB = 1024 * _KIB
# Bytes of one server stream; then the client begins another.
_STREAM_BYTES = 4 * _MIB

_METRICS = (
    Metric("cpu_us_mb", "CPU per MB", "µs", goal=0.9, headline=True, digits=0),
    Metric("mb_s", "MB per second", "MB/s", more_is_better=True, digits=0),
)


@dataclass(frozen=True)
class Streaming(Case):
    """Bytes as fast as they go."""

    load: Load

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        running = bench.running(peer)
        measured = bench.warm_and_measure(
            running, lambda seconds: client.run(self.load, running.port, seconds=seconds, seed=bench.round)
        )
        return {"cpu_us_mb": measured.cpu_us_per_megabyte, "mb_s": measured.done.megabytes_per_second}


def _bidi(size: int, window: int) -> Load:
    return Load("echo", connections=2, streams=4, size=size, window=window)


def _server(size: int) -> Load:
    return Load(connections=2, streams=4, reply=size, replies=_STREAM_BYTES // size)


CASES = (
    Streaming("bidi-1k", "bidi streams, 1 KiB messages, 16 under way on each of 2 x 4", _METRICS, _bidi(_KIB, 16)),
    Streaming("bidi-64k", "bidi streams, 64 KiB messages, 4 under way on each of 2 x 4", _METRICS, _bidi(64 * _KIB, 4)),
    Streaming("server-1k", "server streams, 1 KiB messages, 2 x 4 streams", _METRICS, _server(_KIB)),
    Streaming("server-64k", "server streams, 64 KiB messages, 2 x 4 streams", _METRICS, _server(64 * _KIB)),
    Streaming(
        "unary-4m",
        "unary, 4 MiB there and back, 2 connections x 2 streams",
        _METRICS,
        Load(connections=2, streams=2, size=4 * _MIB, reply=4 * _MIB),
    ),
)
