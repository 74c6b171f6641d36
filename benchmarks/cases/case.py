"""What a case is: one situation, and the numbers that tell how a peer does in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.bench import Bench
from benchmarks.peers.peer import Peer


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
    digits: int = 1


Numbers = Mapping[str, float]


class Case(Protocol):
    """One situation."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def metrics(self) -> Sequence[Metric]: ...

    @property
    def wide(self) -> bool:
        """Whether the peers that only show where the field is take part."""
        ...

    @property
    def most_rounds(self) -> int:
        """Rounds are never more than these; 0 is no such bound."""
        ...

    def missing(self) -> str:
        """Return why it cannot run here, "" when it can."""
        ...

    def measure(self, bench: Bench, peer: Peer) -> Numbers:
        """Measure one peer once; raises LoadError and FailedToStartError."""
        ...
