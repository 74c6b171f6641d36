"""The results of a run: the numbers as they were measured, and the medians and ranges made of them."""

from __future__ import annotations

import datetime as dt
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import tools
from benchmarks.cases.case import Case, Metric, Numbers
from benchmarks.cases.registry import CASES

FOLDER = tools.FOLDER / "results"
REFERENCE = "envoy"
# Whose goals they are: the other engine is not there for speed.
OURS = "edge-wire"

# By peer; one of a round.
Round = dict[str, Numbers]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its range."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Iterable[float]) -> Spread | None:
        """Return the spread of values, None when there are none."""
        known = list(values)
        return Spread(statistics.median(known), min(known), max(known)) if known else None


class Results:
    """One run."""

    def __init__(self, about: dict[str, Any], cases: Sequence[Case]) -> None:
        self.about = about
        self.cases = list(cases)
        self._rounds: dict[str, list[Round]] = {}
        # By case, round and peer; one for each measurement.
        self._conditions: dict[str, list[dict[str, list[dict[str, float]]]]] = {}

    def add(self, case: str, number: int, peer: str, numbers: Numbers) -> None:
        """Note what a peer did in a round, the rounds counted from 0."""
        rounds = self._rounds.setdefault(case, [])
        while len(rounds) <= number:
            rounds.append({})
        rounds[number][peer] = numbers

    def note(self, case: str, number: int, peer: str, *, load_average: float, others: float) -> None:
        """Note how the machine was while a peer was measured in a round.

        The load average is that of the minute before, so that what was measured then is in it; `others` is the part of
        the processors that programs that are not ours took, and the host that lends them.
        """
        rounds = self._conditions.setdefault(case, [])
        while len(rounds) <= number:
            rounds.append({})
        noted = {"load_average": load_average, "others": round(others, 3)}
        rounds[number].setdefault(peer, []).append(noted)

    def others(self, case: str) -> Spread | None:
        """Return what part of the machine's processors programs that are not ours took while a case was measured."""
        return self._condition(case, "others")

    def load_average(self, case: str) -> Spread | None:
        """Return the load average (of a minute) before each measurement of a case."""
        return self._condition(case, "load_average")

    def rounds(self, case: str) -> Sequence[Round]:
        return self._rounds.get(case, [])

    def peers(self, case: str) -> list[str]:
        """Return who took part in a case: Envoy, ours, the others."""
        names = {name for numbers in self.rounds(case) for name in numbers}
        return sorted(names, key=lambda name: (name != REFERENCE, not name.startswith("edge-"), name))

    def value(self, case: str, peer: str, metric: Metric) -> Spread | None:
        """Return a number of a peer over the rounds."""
        return Spread.of(numbers[peer][metric.key] for numbers in self.rounds(case) if peer in numbers)

    def ratio(self, case: str, peer: str, metric: Metric) -> Spread | None:
        """Return a number of a peer over Envoy's of the same round: what disturbs the machine disturbs both.

        Rounds in which one of the two is not above 0 say nothing: a percentile through a proxy can come out lower than
        the one without.
        """
        if metric.shared:
            return None
        pairs = (
            (numbers[peer][metric.key], numbers[REFERENCE][metric.key])
            for numbers in self.rounds(case)
            if peer in numbers and REFERENCE in numbers
        )
        return Spread.of(ours / reference for ours, reference in pairs if ours > 0 and reference > 0)

    def meets(self, case: str, peer: str, metric: Metric) -> bool | None:
        """Tell whether a peer reaches the goal of a metric; None when there is none for it to reach."""
        spread = self.value(case, peer, metric) if metric.absolute else self.ratio(case, peer, metric)
        if metric.goal is None or spread is None or peer != OURS:
            return None
        return spread.median >= metric.goal if metric.more_is_better else spread.median <= metric.goal

    def _condition(self, case: str, key: str) -> Spread | None:
        rounds = self._conditions.get(case, [])
        return Spread.of(one[key] for peers in rounds for noted in peers.values() for one in noted)

    def take_conditions(self, conditions: dict[str, list[dict[str, list[dict[str, float]]]]]) -> None:
        """Take what was noted by another run of this program."""
        self._conditions = conditions

    def save(self, path: Path) -> None:
        """Write everything to a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"about": self.about, "rounds": self._rounds, "conditions": self._conditions}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Results:
    """Return the results that a file holds."""
    content = json.loads(path.read_text(encoding="utf-8"))
    results = Results(content["about"], [case for case in CASES if case.name in content["rounds"]])
    for case, rounds in content["rounds"].items():
        for number, numbers in enumerate(rounds):
            for peer, measured in numbers.items():
                results.add(case, number, peer, measured)
    results.take_conditions(content.get("conditions", {}))
    return results


def new_path(*, quick: bool) -> Path:
    """Return where the results of a run that begins now go; quick ones are not kept."""
    name = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d-%H%M")
    return (FOLDER / "quick" if quick else FOLDER) / f"{name}.json"


def latest() -> Path | None:
    """Return the newest results that are kept."""
    return max(FOLDER.glob("*.json"), default=None)
