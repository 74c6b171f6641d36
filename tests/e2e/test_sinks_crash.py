"""kill -9 of the control process while logs and spans are pushed: what was acknowledged is there, once, on each store.

2 rounds by default, for the sake of time; `MESH_KILL_ROUNDS=25` makes them 25, and `pytest -s` prints what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.api.logsink import v1 as logsink
from mesh.api.tracesink import v1 as tracesink
from tests.conformance_columns.pg_server import PostgresServer
from tests.conformance_columns.pg_server import running as running_postgres
from tests.e2e.registry_harness import AWAITED, PATIENCE, ControlProcess, running

# One PostgreSQL for all of them.
pytestmark = pytest.mark.xdist_group("sinks crash")

ROUNDS = int(os.environ.get("MESH_KILL_ROUNDS", "2"))
PRODUCERS = 3
# Of one batch.
RECORDS = 40
# Batches of one producer that wait for their replies.
PIPELINE = 4
BEGUN = time.time_ns()


def trace_id(producer: int, seq: int) -> str:
    """Return what all records of a batch have, and no others."""
    return f"{producer + 1:016x}{seq:016x}"


def log_batch(producer: int, seq: int) -> logsink.LogBatch:
    return logsink.LogBatch(
        ts_ns=[time.time_ns()] * RECORDS,
        trace_id=logsink.TextColumn(values=[trace_id(producer, seq)]),
        body=logsink.TextColumn(values=[f"record {number}" for number in range(RECORDS)]),
        service=logsink.TextColumn(values=[f"producer-{producer}"]),
    )


def span_batch(producer: int, seq: int) -> tracesink.SpanBatch:
    return tracesink.SpanBatch(
        start_ns=[time.time_ns()] * RECORDS,
        end_ns=[time.time_ns()] * RECORDS,
        trace_id=logsink.TextColumn(values=[trace_id(producer, seq)]),
        span_id=logsink.TextColumn(values=[f"{number + 1:016x}" for number in range(RECORDS)]),
        name=logsink.TextColumn(values=["work"]),
        service=logsink.TextColumn(values=[f"producer-{producer}"]),
    )


async def stored_logs(channel: grpc.aio.Channel, producer: int) -> Counter[str]:
    """Return how many records of a producer there are of each trace."""
    found: list[tuple[str, str]] = []
    filter_ = logsink.Filter(services=[f"producer-{producer}"], start_ns=BEGUN, end_ns=time.time_ns() + 10**9)
    request = logsink.SearchRequest(filter=filter_, limit=5000)
    stub: Any = logsink.LogSinkStub(channel)
    while True:
        page = await stub.Search(request, timeout=PATIENCE, wait_for_ready=True)
        found += [(record.trace_id, record.body) for record in page.records]
        request.cursor = page.cursor
        if not page.cursor:
            # None of them twice.
            assert len(found) == len(set(found))
            return Counter(trace for trace, _ in found)


async def stored_spans(channel: grpc.aio.Channel, producer: int) -> Counter[str]:
    found: Counter[str] = Counter()
    filter_ = tracesink.TraceFilter(services=[f"producer-{producer}"], start_ns=BEGUN, end_ns=time.time_ns() + 10**9)
    request = tracesink.FindTracesRequest(filter=filter_, limit=1000)
    stub: Any = tracesink.TraceSinkStub(channel)
    while True:
        page = await stub.FindTraces(request, timeout=PATIENCE, wait_for_ready=True)
        found.update({trace.trace_id: trace.spans for trace in page.traces})
        request.cursor = page.cursor
        if not page.cursor:
            return found


@dataclass(frozen=True)
class Kind:
    """A kind of records, and its sink."""

    stub: Callable[[grpc.aio.Channel], Any]
    request: Callable[..., Any]
    batch: Callable[[int, int], Any]
    stored: Callable[[grpc.aio.Channel, int], Any]


KINDS = {
    "logs": Kind(logsink.LogSinkStub, logsink.PushRequest, log_batch, stored_logs),
    "spans": Kind(tracesink.TraceSinkStub, tracesink.PushRequest, span_batch, stored_spans),
}


class Producer:
    """Pushes batches, some at a time, and goes on after each failure where the sink is."""

    def __init__(self, kind: Kind, number: int) -> None:
        self.number = number
        self.acknowledged = 0
        self._kind = kind
        self._grown = asyncio.Event()

    async def reached(self, seq: int) -> None:
        """Wait until so many batches are acknowledged."""
        async with asyncio.timeout(PATIENCE):
            while self.acknowledged < seq:
                self._grown.clear()
                await self._grown.wait()

    async def run(self, control: ControlProcess) -> None:
        while True:
            async with control.channel() as channel:
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await self._push(self._kind.stub(channel).Push())
            await asyncio.sleep(0.05)

    async def _push(self, call: Any) -> None:
        request, batch = self._kind.request, self._kind.batch
        await call.write(request(producer=f"p{self.number}"))
        done = (await call.read()).durable_seq
        # It never knows less than it said.
        assert done >= self.acknowledged
        sent = done
        while True:
            while sent < done + PIPELINE:
                await call.write(request(seq=sent + 1, after=sent, batch=batch(self.number, sent + 1)))
                sent += 1
            reply = await call.read()
            if reply is grpc.aio.EOF:
                return
            assert not reply.rejected
            done = self.acknowledged = max(done, reply.durable_seq)
            self._grown.set()


class StoringControl(ControlProcess):
    """A control process whose telemetry is in the store at a URL; "" is the one of its own."""

    def __init__(self, data_dir: Path, url: str) -> None:
        super().__init__(data_dir, AWAITED)
        self._url = url

    async def _spawn(self, *more: str, pass_fds: tuple[int, ...] = ()) -> asyncio.subprocess.Process:
        store = ("--telemetry-store", self._url) if self._url else ()
        return await super()._spawn(*store, *more, pass_fds=pass_fds)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


_schemas = itertools.count()


@pytest.mark.parametrize("store", ["duckdb", "postgresql"])
@pytest.mark.parametrize("what", list(KINDS))
@pytest.mark.timeout(120 + 20 * ROUNDS)
async def test_what_was_acknowledged_is_there_once(
    request: pytest.FixtureRequest, tmp_path: Path, what: str, store: str
) -> None:
    dice, kind = random.Random(1), KINDS[what]
    producers = [Producer(kind, number) for number in range(PRODUCERS)]
    url = request.getfixturevalue("postgres").url(f"crash_{next(_schemas)}") if store == "postgresql" else ""
    control = StoringControl(tmp_path, url)
    try:
        await control.start()
        async with running(*(producer.run(control) for producer in producers)) as tasks:
            for _ in range(ROUNDS):
                more = dice.randrange(2, 12)
                await asyncio.gather(*(producer.reached(producer.acknowledged + more) for producer in producers))
                await control.kill()
                await control.start()
            await asyncio.gather(*(producer.reached(producer.acknowledged + 1) for producer in producers))
            assert not any(task.done() for task in tasks)
        there = 0
        async with control.channel() as channel:
            for producer in producers:
                found = await kind.stored(channel, producer.number)
                assert set(found.values()) == {RECORDS}
                # All up to some point, which is not before what was acknowledged.
                assert found.keys() == {trace_id(producer.number, seq + 1) for seq in range(len(found))}
                assert len(found) >= producer.acknowledged > 2 * ROUNDS
                there += len(found)
    finally:
        await control.stop()
    acknowledged = sum(producer.acknowledged for producer in producers)
    print(  # noqa: T201 - what it must show
        f"\n{what} on {store}: {ROUNDS} kills, {acknowledged * RECORDS} records acknowledged, "
        f"{there * RECORDS} there, none of them lost and none twice"
    )
