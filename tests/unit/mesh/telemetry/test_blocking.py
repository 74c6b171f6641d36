"""Handlers that really block a real loop, until the watch has seen it: nothing is timed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
import uvloop

from mesh.context import CallContext, current
from mesh.errors import UsageError
from mesh.telemetry import stacks
from mesh.telemetry.blocking import MAX_FUNCTIONS, METRIC, OTHERS, OVERLOAD, BlockingOptions, BlockingWatch
from mesh.telemetry.stacks import Culprit, WorkUnderWay, base, judge, names_calls, sample

PATIENCE = 60.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
CALL = CallContext("order-42", "a" * 32, "b" * 16)


class Orders:
    """A servicer that does what it should not, until it is found out."""

    def __init__(self, found_out: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PATIENCE
        self._go_on: Callable[[], bool] = lambda: not found_out() and time.monotonic() < give_up

    async def sleeps(self) -> None:
        while self._go_on():
            time.sleep(0.005)  # noqa: ASYNC251 - this is it

    async def computes(self) -> None:
        while self._go_on():
            sum(range(1000))

    async def waits_in_a_library(self) -> None:
        while self._go_on():
            queue.Queue[None]().empty()
            with contextlib.suppress(queue.Empty):
                queue.Queue[None]().get(timeout=0.05)


async def _served(handler: Callable[[], Awaitable[None]]) -> None:
    call = "/shop.v1.Orders/Get", CALL
    await handler()
    del call


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    def in_loop(coroutine: Any) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(coroutine)

    return in_loop


@pytest.fixture
def lines() -> Iterator[list[tuple[logging.LogRecord, CallContext | None]]]:
    """What the watch logs, and in which call's context."""
    found: list[tuple[logging.LogRecord, CallContext | None]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append((record, current()))

    handler, logger = Handler(), logging.getLogger("mesh.telemetry.blocking")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


Lines = list[tuple[logging.LogRecord, CallContext | None]]


@pytest.mark.parametrize("method", ["sleeps", "computes", "waits_in_a_library"])
def test_who_blocks_the_loop_is_named_once_and_counted(
    run: Callable[[Any], Any], method: str, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reader(names: Mapping[str, Any]) -> WorkUnderWay:
        return WorkUnderWay(*names["call"])

    monkeypatch.setattr(stacks, "_readers", {})
    names_calls(_served, reader)

    async def main() -> list[Any]:
        with BlockingWatch(BlockingOptions(limit_seconds=0.05)) as watch:
            for _ in range(2):
                await _served(getattr(Orders(lambda: watch._found is not None), method))
                while watch._found is not None:
                    await asyncio.sleep(0)
            (metric,) = watch.collect()
            return metric.samples

    samples = {one.name: one.value for one in run(main()) if one.labels["function"] != OVERLOAD}
    ((record, context),) = lines
    said = record.getMessage()
    assert f"by Orders.{method} (tests/unit/mesh/telemetry/test_blocking.py:" in said
    assert ", serving /shop.v1.Orders/Get: " in said
    assert (" in threading.Condition.wait" in said) == (method == "waits_in_a_library")
    assert record.__dict__["rpc.method"] == "/shop.v1.Orders/Get"
    assert context == CALL
    assert samples[f"{METRIC}_count"] == 2
    assert samples[f"{METRIC}_sum"] >= 0.1


def test_a_block_that_does_not_end_is_told_while_it_goes_on(run: Callable[[Any], Any], lines: Lines) -> None:
    async def main() -> None:
        with BlockingWatch(BlockingOptions(limit_seconds=0.02, still_seconds=0.05)) as watch:
            await Orders(lambda: len(lines) > 0).sleeps()
            while watch._found is not None:
                await asyncio.sleep(0)

    run(main())
    ((record, _),) = lines
    assert ", and still is, by Orders.sleeps " in record.getMessage()


def test_lines_are_few(lines: Lines) -> None:
    watch = BlockingWatch(BlockingOptions(lines=2))
    for number in range(4):
        for _ in range(3):
            watch._say(Culprit(f"work_{number}", "work.py", 1), 0.2, still=False)
    assert [record.getMessage().split()[9] for record, _ in lines] == ["work_0", "work_1"]
    eager = BlockingWatch(BlockingOptions(quiet_seconds=0))
    for _ in range(3):
        eager._say(None, 0.2, still=False)
    assert len(lines) == 5


def test_functions_in_the_metric_are_bounded() -> None:
    watch = BlockingWatch()
    for number in range(100):
        watch._count(Culprit(f"work_{number}", "work.py", 1), 0.2)
    (metric,) = watch.collect()
    counts = {one.labels["function"]: one.value for one in metric.samples if one.name.endswith("_count")}
    assert len(counts) == MAX_FUNCTIONS + 1
    assert counts[OTHERS] == 100 - MAX_FUNCTIONS


def test_a_loop_with_nothing_to_do_is_not_blamed(run: Callable[[Any], Any], lines: Lines) -> None:
    async def main() -> None:
        with BlockingWatch(BlockingOptions(limit_seconds=0.01)) as watch:
            for _ in range(20):
                await asyncio.sleep(0.01)
            assert watch._thread.is_alive()
        assert not watch._thread.is_alive()
        assert [one.value for metric in watch.collect() for one in metric.samples] == []

    run(main())
    assert lines == []


def test_a_loop_that_waits_runs_nothing() -> None:
    """Whatever else the machine does: the frames of a waiting loop are nobody's."""
    for factory in LOOPS.values():
        ready, stop = threading.Event(), threading.Event()
        found: list[Any] = []

        def serve(factory: Any = factory, ready: Any = ready, stop: Any = stop, found: Any = found) -> None:
            async def main() -> None:
                loop = asyncio.get_running_loop()
                done = asyncio.Event()
                loop.call_soon(lambda: found.append(base(sys._getframe().f_back)))
                loop.call_later(0, ready.set)
                threading.Thread(target=lambda: (stop.wait(), loop.call_soon_threadsafe(done.set))).start()
                await done.wait()

            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(main())

        thread = threading.Thread(target=serve)
        thread.start()
        assert ready.wait(PATIENCE)
        give_up = time.monotonic() + PATIENCE
        assert thread.ident is not None
        while sample(sys._current_frames()[thread.ident], found[0]).steps:
            assert time.monotonic() < give_up
            time.sleep(0.001)
        stop.set()
        thread.join()


def test_many_callbacks_together_are_nobodys_fault() -> None:
    def one() -> Any:
        return sample(sys._getframe(), base(sys._getframe().f_back))

    def other() -> Any:
        return sample(sys._getframe(), base(sys._getframe().f_back))

    assert judge(one(), other()) is None
    frame = sample(sys._getframe(), base(sys._getframe().f_back))
    culprit = judge(frame, frame)
    assert culprit is not None
    assert culprit.function == "test_many_callbacks_together_are_nobodys_fault"
    assert culprit.inside == ""


def test_options_that_make_no_sense_are_refused() -> None:
    for wrong in ({"limit_seconds": 0.0}, {"still_seconds": 0.05}, {"lines": 0}):
        with pytest.raises(UsageError):
            BlockingOptions(**wrong)
