"""How the answers of Prometheus are asked for, kept in a file, and compared with ours.

`python -m tests.unit.services.metrics.promql.oracle` writes answers.json anew from the Prometheus that is installed.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from services.metrics.promql.data import STALE as STALE_VALUE
from services.metrics.promql.data import Block, Steps, Value, Vector
from services.metrics.promql.evaluate import evaluate
from services.metrics.promql.labels import Labels, from_mapping, get
from services.metrics.promql.parse import parse
from services.metrics.promql.plan import plan
from services.metrics.promql.tree import Selector
from tests.unit.services.metrics.promql.dataset import END, STALE, START, Series, dataset
from tests.unit.services.metrics.promql.prometheus_server import Prometheus, running
from tests.unit.services.metrics.promql.queries import BROKEN, ORDERED, QUERIES

FILE = Path(__file__).with_name("answers.json")
RANGE = (START + 60_000, END + 120_000, 217_000)
MOMENTS = (START + 1_000_000, END - 7)
TOLERANCE = 1e-9

Answer = dict[str, Any]


class Memory:
    """The dataset as blocks, for our evaluation."""

    def __init__(self, series: list[Series]) -> None:
        self._series = [
            (
                from_mapping(labels),
                np.array(times, np.int64),
                np.array([STALE_VALUE if value == STALE else value for value in values], np.float64),
            )
            for labels, times, values in series
        ]

    def answer(self, query: str, start: int, end: int, step: int) -> Value:
        node = parse(query)
        steps = Steps.range(start, end, step)
        fetched = {fetch.selector: self._block(fetch.selector, fetch.start, fetch.end) for fetch in plan(node, steps)}
        return evaluate(node, steps, fetched)

    def _block(self, selector: Selector, start: int, end: int) -> Block:
        found = []
        for labels, times, values in self._series:
            if any(all(one.test()(get(labels, one.name)) for one in group) for group in selector.matchers):
                inside = (times >= start) & (times <= end)
                if inside.any():
                    found.append((labels, times[inside], values[inside]))
        return Block.of(found)


def ours(value: Value, steps: Steps) -> dict[Labels, dict[int, float]]:
    """Return an answer of ours as labels → time → value."""
    if isinstance(value, np.ndarray):
        return {(): dict(zip(steps.times.tolist(), value.tolist(), strict=True))}
    assert isinstance(value, Vector)
    return {
        labels: {int(ts): float(one) for ts, one, here in zip(steps.times, row, present, strict=True) if here}
        for labels, row, present in zip(value.labels, value.values, value.present, strict=True)
    }


def theirs(data: Answer) -> dict[Labels, dict[int, float]]:
    """Return an answer of Prometheus in the same form."""
    result = data["result"]
    if data["resultType"] == "scalar":
        return {(): {round(result[0] * 1000): float(result[1])}}
    return {
        from_mapping(one["metric"]): {
            round(ts * 1000): float(value) for ts, value in one.get("values", [one.get("value")])
        }
        for one in result
    }


def difference(mine: dict[Labels, dict[int, float]], other: dict[Labels, dict[int, float]]) -> str:
    """Return how two answers differ, "" if they do not."""
    if mine.keys() != other.keys():
        return (
            f"only ours {sorted(mine.keys() - other.keys())[:3]}, only theirs {sorted(other.keys() - mine.keys())[:3]}"
        )
    for labels, samples in mine.items():
        expected = other[labels]
        if samples.keys() != expected.keys():
            return f"{labels}: at {sorted(samples.keys() ^ expected.keys())[:5]} only one has a value"
        for ts, value in samples.items():
            if not same(value, expected[ts]):
                return f"{labels} at {ts}: ours {value!r}, theirs {expected[ts]!r}"
    return ""


def same(mine: float, other: float) -> bool:
    if math.isnan(mine) or math.isnan(other):
        return math.isnan(mine) and math.isnan(other)
    return mine == other or math.isclose(mine, other, rel_tol=TOLERANCE, abs_tol=1e-12)


def ordered(query: str) -> bool:
    return query.startswith(ORDERED)


def ask_all(prometheus: Prometheus) -> Answer:
    """Ask Prometheus everything."""
    start, end, step = RANGE
    answers: Answer = {"version": prometheus.version(), "range": {}, "instant": {}, "broken": {}}
    for query in QUERIES:
        reply = prometheus.ask("query_range", query=query, start=start / 1000, end=end / 1000, step=step / 1000)
        assert reply["status"] == "success", (query, reply)
        answers["range"][query] = reply["data"]
        reply = prometheus.ask("query", query=query, time=MOMENTS[0] / 1000)
        assert reply["status"] == "success", (query, reply)
        answers["instant"][query] = reply["data"]
    for query in BROKEN:
        reply = prometheus.ask("query", query=query, time=MOMENTS[0] / 1000)
        assert reply["status"] == "error", (query, reply)
        answers["broken"][query] = reply["error"]
    return answers


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as prometheus:
        series = dataset()
        prometheus.write(series)
        answers = ask_all(prometheus)
    answers["series"] = [
        [labels, [times[0], *np.diff(times).tolist()], [_plain(v) for v in values]] for labels, times, values in series
    ]
    FILE.write_text(json.dumps(answers, separators=(",", ":")) + "\n")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def stored_series(answers: Answer) -> list[Series]:
    """Return the series of the file."""
    return [
        (labels, np.cumsum(deltas).tolist(), [one if one == STALE else float(one) for one in values])
        for labels, deltas, values in answers["series"]
    ]


if __name__ == "__main__":
    main()
