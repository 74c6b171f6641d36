"""What a case is: one situation, and the numbers that tell how a peer does in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.bench import SETTLE_SECONDS, Bench
from benchmarks.peers.peer import Peer

Numbers = Mapping[str, float]

# What starting the load client takes.
_START_SECONDS = 0.15


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a case."""

    key: str
    title: str
    unit: str
    # What our number divided by Envoy's of the same round shall be at most; at least when more is better.
    goal: float | None = None
    more_is_better: bool = False
    # The goal is for the number itself, not for its ratio to Envoy's.
    absolute: bool = False
    # The number that the case is about: in the picture.
    headline: bool = False
    # It is not of the peer but of the round, so the same for all.
    shared: bool = False
    digits: int = 1


@dataclass(frozen=True)
class Case:
    """One situation."""

    name: str
    title: str
    metrics: Sequence[Metric]
    # Whether the peers that only show where the field is take part.
    wide: bool = field(default=True, kw_only=True)
    # Only these peers take part; empty is all.
    only: Sequence[str] = field(default=(), kw_only=True)
    # Rounds are never more than these; 0 is no such bound.
    most_rounds: int = field(default=0, kw_only=True)
    # The same for the peers that are not main ones.
    most_others_rounds: int = field(default=0, kw_only=True)
    # How often a main peer is measured in a round. Two are made in mirrored order, ABBA, so that a machine that grows
    # slower or faster meanwhile does so for both.
    slices: int = field(default=2, kw_only=True)

    def missing(self) -> str:
        """Return why it cannot run here, "" when it can."""
        return ""

    def seconds(self, bench: Bench, peer: Peer) -> float:
        """Return about how long one measurement takes; only for telling how much time is left."""
        return bench.seconds + SETTLE_SECONDS + _START_SECONDS

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        """Measure one peer once; raises LoadError and FailedToStartError."""
        raise NotImplementedError
