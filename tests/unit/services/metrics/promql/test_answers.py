"""Our answers against those of a real Prometheus: a table of them, and live where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.metrics.promql.data import Steps
from services.metrics.promql.errors import PromqlError
from tests.unit.services.metrics.promql import oracle
from tests.unit.services.metrics.promql.dataset import dataset
from tests.unit.services.metrics.promql.oracle import MOMENTS, RANGE, Memory
from tests.unit.services.metrics.promql.prometheus_server import installed, running
from tests.unit.services.metrics.promql.queries import BROKEN, QUERIES

TABLE: dict[str, Any] = json.loads(oracle.FILE.read_text())


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory(oracle.stored_series(TABLE))


@pytest.mark.parametrize("query", QUERIES)
def test_a_range_has_prometheus_answer(memory: Memory, query: str) -> None:
    mine = oracle.ours(memory.answer(query, *RANGE), Steps.range(*RANGE))
    assert oracle.difference(mine, oracle.theirs(TABLE["range"][query])) == ""


@pytest.mark.parametrize("query", QUERIES)
def test_a_moment_has_prometheus_answer(memory: Memory, query: str) -> None:
    moment = (MOMENTS[0], MOMENTS[0], 1)
    mine = oracle.ours(memory.answer(query, *moment), Steps.range(*moment))
    other = oracle.theirs(TABLE["instant"][query])
    assert oracle.difference(mine, other) == ""
    if oracle.ordered(query):
        assert list(mine) == list(other)


@pytest.mark.parametrize("query", BROKEN)
def test_what_prometheus_refuses_is_refused(memory: Memory, query: str) -> None:
    with pytest.raises(PromqlError):
        memory.answer(query, MOMENTS[0], MOMENTS[0], 1)


def test_the_table_is_of_these_queries() -> None:
    assert set(TABLE["range"]) == set(QUERIES)
    assert set(TABLE["broken"]) == set(BROKEN)
    assert len(QUERIES) > 250


@pytest.mark.skipif(installed() is None, reason="Prometheus is not installed here")
def test_the_prometheus_here_agrees(tmp_path: Path) -> None:
    """Other moments and other steps than those of the table."""
    memory, wrong = Memory(dataset()), []
    start, end, step = RANGE[0] + 7_777, RANGE[1] - 123_456, 31_000
    with running(tmp_path) as prometheus:
        prometheus.write(dataset())
        for query in QUERIES:
            times = {"start": start / 1000, "end": end / 1000, "step": step / 1000}
            other = oracle.theirs(prometheus.ask("query_range", query=query, **times)["data"])
            mine = oracle.ours(memory.answer(query, start, end, step), Steps.range(start, end, step))
            if found := oracle.difference(mine, other):
                wrong.append((query, found))
    assert not wrong
