"""Who is measured when, and how long that will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.cases.case import Case
from benchmarks.peers.peer import Peer

# What starting a peer and its first load take, once a case.
_BEGIN_SECONDS = 2.5


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement of one peer."""

    peer: Peer
    # About how long it takes.
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A case: its rounds, each with those that are measured in it, in their order."""

    case: Case
    rounds: Sequence[Sequence[Turn]]


def plan(case: Case, bench: Bench, peers: Sequence[Peer], rounds: int, others_rounds: int) -> Plan:
    """Return the order of a case.

    The main peers take turns in being first, and come in mirrored order where a case has two slices: A B B A, then
    B A A B. The others follow, in as many rounds as they shall have, spread over all.
    """
    there = [peer for peer in peers if (not case.only or peer.name in case.only)]
    main = [peer for peer in there if peer.main]
    others = [peer for peer in there if not peer.main and (case.wide or case.only)]
    count = min(rounds, case.most_rounds or rounds)
    others_rounds = min(others_rounds, case.most_others_rounds or others_rounds)
    seen: set[str] = set()

    def turn(peer: Peer) -> Turn:
        first = peer.name not in seen
        seen.add(peer.name)
        return Turn(peer, case.seconds(bench, peer) + (_BEGIN_SECONDS if first else 0))

    planned = []
    for number in range(count):
        order = _rotated(main, number)
        if case.slices > 1:
            order += order[::-1]
        if number * others_rounds // count != (number - 1) * others_rounds // count:
            order += _rotated(others, number)
        planned.append([turn(peer) for peer in order])
    return Plan(case, planned)


class Progress:
    """Says what is being done and how much time is left: on a terminal in one line, else a line a minute."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._left = sum(turn.seconds for planned in plans for turns in planned.rounds for turn in turns)
        self._expected_so_far = 0.0
        self._began = self._said = time.monotonic()

    def begin(self, what: str) -> None:
        now, line = time.monotonic(), f"{what} (about {self._minutes_left()})"
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", flush=True, file=sys.stderr)
        elif now - self._said >= 60 or not self._expected_so_far:
            print(line, flush=True, file=sys.stderr)
            self._said = now

    def done(self, turn: Turn) -> None:
        self._left -= turn.seconds
        self._expected_so_far += turn.seconds

    def clear(self) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", flush=True, file=sys.stderr)

    def _minutes_left(self) -> str:
        # What was expected is corrected by how long it took so far, once that says something.
        taken = time.monotonic() - self._began
        factor = taken / self._expected_so_far if self._expected_so_far > 20 else 1.0
        minutes = self._left * factor / 60
        return f"{minutes:.0f} min left" if minutes >= 1 else "less than a minute left"


def _rotated(peers: Sequence[Peer], number: int) -> list[Peer]:
    turn = number % max(1, len(peers))
    return [*peers[turn:], *peers[:turn]]
