"""Queries: parsed, their samples fetched, evaluated in a few threads; bounded in number, size and time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mesh.errors import MeshError
from services.metrics.errors import BusyError
from services.metrics.promql.data import Block, Budget, Floats, Ints, Steps, Value, Vector, Windows
from services.metrics.promql.errors import EvaluationError, LimitError, ParseError, QueryTimeoutError, StepsError
from services.metrics.promql.evaluate import evaluate
from services.metrics.promql.labels import Labels
from services.metrics.promql.parse import parse
from services.metrics.promql.plan import plan
from services.metrics.promql.tree import Kind, Node, Selector, Subquery, children, kind
from services.metrics.store import MetricStore

_REASONS: dict[type[MeshError], str] = {
    ParseError: "bad_query",
    EvaluationError: "no_answer",
    LimitError: "limit",
    StepsError: "limit",
    QueryTimeoutError: "timeout",
    BusyError: "busy",
}


T = TypeVar("T")

# What is smaller is computed at once, in about the time that a thread's turn takes: values of a query, samples that its
# steps look at, nodes of its tree, and values of an answer.
_SMALL_CELLS = 4000
_SMALL_LOOKS = 200_000
_SMALL_NODES = 12
_SMALL_ANSWER = 4000


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer."""

    labels: Labels
    ts: Ints
    values: Floats


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query came to; a scalar is one series without labels."""

    kind: Kind
    series: list[Series]
    text: str = ""


class Queries:
    """Use as `async with Queries(store) as queries`."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store
        self._options = store.options
        self._pool = ThreadPoolExecutor(self._options.queries_at_once, "promql")
        self._slots = asyncio.Semaphore(self._options.queries_at_once)
        self._waiting = 0
        # Queries without an answer, by why.
        self.failures: Counter[str] = Counter()

    async def __aenter__(self) -> Queries:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def instant(self, query: str, at_ms: int | None = None, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 - the caller's wish, bounded by ours
        """Return the value of a query at one moment, by default now.

        Raises:
            PromqlError: it has none; its subclass says why.
            BusyError: too many queries wait.
            StorageError: the store cannot be read.

        """
        with self._counted():
            return await self._instant(query, at_ms, timeout)

    async def _instant(self, query: str, at_ms: int | None, timeout: float | None) -> Answer:  # noqa: ASYNC109
        node = parse(query)
        at = self._store.now_ms() if at_ms is None else at_ms
        _bound_times(at)
        return await self._run(node, Steps(np.array([at], np.int64), at, at), timeout, instant=True)

    async def range(self, query: str, start: int, end: int, step: int, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 - as above
        """Return the values of a query from `start` to `end`, every `step` (milliseconds); raises as `instant`."""
        with self._counted():
            return await self._range(query, start, end, step, timeout)

    async def _range(self, query: str, start: int, end: int, step: int, timeout: float | None) -> Answer:  # noqa: ASYNC109
        node = parse(query)
        if kind(node) not in {Kind.SCALAR, Kind.VECTOR}:
            raise ParseError(
                f"invalid expression type '{kind(node).value}' for range query, must be scalar or instant vector"
            )
        if step <= 0:
            raise ParseError("zero or negative query resolution step widths are not accepted: take a positive step")
        if end < start:
            raise ParseError("the end of the range is before its start")
        _bound_times(start, end)
        most = self._options.max_query_points
        if (end - start) // step > most:  # as Prometheus counts
            raise StepsError(f"the range has more than {most} steps: take a longer step, or a shorter range")
        steps = Steps.range(start, end, step)
        return await self._run(node, steps, timeout, instant=False)

    async def aside(self, work: Callable[[Answer], T], found: Answer) -> T:
        """Return what `work` makes of an answer, of a large one in a thread: the event loop has calls to answer."""
        if sum(len(one.ts) for one in found.series) + len(found.series) <= _SMALL_ANSWER:
            return work(found)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, found)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except MeshError as error:
            self.failures[_REASONS.get(type(error), "unavailable")] += 1
            raise

    async def _run(self, node: Node, steps: Steps, timeout: float | None, *, instant: bool) -> Answer:  # noqa: ASYNC109 - as above
        seconds = min(timeout or self._options.query_timeout, self._options.query_timeout)
        given_up = False

        def tick() -> None:
            if given_up:
                raise QueryTimeoutError("the query was given up")

        budget = Budget(self._options.max_query_cells, tick=tick)
        try:
            async with asyncio.timeout(seconds), self._turn():
                fetched = await self._fetched(node, steps, budget)

                def work() -> Answer:
                    value = evaluate(node, steps, fetched, budget=budget)
                    return self._answered(node, value, steps.times, instant=instant)

                if _small(node, steps, fetched):
                    return work()
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except TimeoutError as error:
            raise QueryTimeoutError(f"the query took longer than {seconds:g} s") from error
        finally:
            given_up = True

    async def _fetched(self, node: Node, steps: Steps, budget: Budget) -> dict[Selector, Block]:
        fetched, total = {}, 0
        for wanted in plan(node, steps, max_steps=budget.max_steps):
            block = fetched[wanted.selector] = await self._store.fetch(wanted)
            total += len(block.ts)
            if total > self._options.max_query_samples:
                raise LimitError(f"the query reads more than {self._options.max_query_samples} samples")
        return fetched

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._waiting >= self._options.queries_waiting:
            raise BusyError(f"{self._waiting} queries wait already: ask again later")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    def _answered(self, node: Node, value: Value, times: Ints, *, instant: bool) -> Answer:
        what = kind(node)
        if isinstance(value, str):
            return Answer(what, [Series((), times, np.zeros(1))], value)
        if isinstance(value, Windows):
            return Answer(what, list(_raw(value)))
        if not isinstance(value, Vector):
            return Answer(what if instant else Kind.MATRIX, [Series((), times, value)])
        shown = value.inhabited()
        most = self._options.max_result_series
        if len(shown.labels) > most:
            raise LimitError(f"the answer has {len(shown.labels)} series; at most {most} are returned: aggregate them")
        whole: list[bool] = [bool(one.all()) for one in shown.present]
        found = [
            Series(labels, times, row) if full else Series(labels, times[here], row[here])
            for labels, row, here, full in zip(shown.labels, shown.values, shown.present, whole, strict=True)
        ]
        if not instant:
            found.sort(key=lambda one: one.labels)
        return Answer(what if instant else Kind.MATRIX, found)


def _small(node: Node, steps: Steps, fetched: Mapping[Selector, Block]) -> bool:
    """Tell whether a query is evaluated in about a millisecond."""
    series = sum(len(block.labels) for block in fetched.values())
    samples = sum(len(block.ts) for block in fetched.values())
    # Each step may look at every sample once more.
    if (series + 1) * len(steps) > _SMALL_CELLS or samples * len(steps) > _SMALL_LOOKS:
        return False
    nodes = [node]
    for one in nodes:
        if isinstance(one, Subquery):
            return False
        nodes.extend(children(one))
        if len(nodes) > _SMALL_NODES:
            return False
    return True


def _raw(windows: Windows) -> list[Series]:
    """Return the samples themselves, as an instant query for a range vector shows them."""
    block = windows.block
    return [
        Series(block.labels[i], block.ts[low:high], block.values[low:high])
        for i, (low, high) in enumerate(zip(windows.low[:, 0].tolist(), windows.high[:, 0].tolist(), strict=True))
        if high > low
    ]


def _bound_times(*times: int) -> None:
    """Raise ParseError for times that no samples can have."""
    if any(abs(time) > 253_402_300_799_000 for time in times):
        raise ParseError("a time lies beyond the year 9999")
