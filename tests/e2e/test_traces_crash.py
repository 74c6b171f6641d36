"""kill -9 of the control process while spans are pushed: what was acknowledged is there, once.

3 rounds by default, for the sake of time; `MESH_KILL_ROUNDS=25` makes them 25.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.api.logsink.v1 import TextColumn
from mesh.api.tracesink.v1 import FindTracesRequest, PushRequest, SpanBatch, TraceFilter, TraceSinkStub
from tests.e2e.registry_harness import AWAITED, PATIENCE, ControlProcess, control_process, running

ROUNDS = int(os.environ.get("MESH_KILL_ROUNDS", "3"))
PRODUCERS = 3
SPANS = 40
# Batches of one producer that wait for their replies.
PIPELINE = 4
BEGUN = time.time_ns()


def batch(producer: int, seq: int) -> SpanBatch:
    """Return the spans of one trace, which is known by its producer and number."""
    return SpanBatch(
        start_ns=[time.time_ns()] * SPANS,
        end_ns=[time.time_ns()] * SPANS,
        trace_id=TextColumn(values=[trace_id(producer, seq)]),
        span_id=TextColumn(values=[f"{number + 1:016x}" for number in range(SPANS)]),
        name=TextColumn(values=["work"]),
        service=TextColumn(values=[f"producer-{producer}"]),
    )


def trace_id(producer: int, seq: int) -> str:
    return f"{producer + 1:016x}{seq:016x}"


class Producer:
    """Pushes batches, some at a time, and goes on after each failure where the sink is."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.acknowledged = 0
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
                stub: Any = TraceSinkStub(channel)
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await self._push(stub.Push())
            await asyncio.sleep(0.05)

    async def _push(self, call: Any) -> None:
        await call.write(PushRequest(producer=f"p{self.number}"))
        done = (await call.read()).durable_seq
        # It never knows less than it said.
        assert done >= self.acknowledged
        sent = done
        while True:
            while sent < done + PIPELINE:
                request = PushRequest(seq=sent + 1, after=sent, batch=batch(self.number, sent + 1))
                await call.write(request)
                sent += 1
            reply = await call.read()
            if reply is grpc.aio.EOF:
                return
            assert not reply.rejected
            done = self.acknowledged = max(done, reply.durable_seq)
            self._grown.set()


async def stored(control: ControlProcess, producer: int) -> dict[str, int]:
    """Return how many spans each trace of a producer has."""
    found: dict[str, int] = {}
    filter_ = TraceFilter(services=[f"producer-{producer}"], start_ns=BEGUN, end_ns=time.time_ns() + 10**9)
    request = FindTracesRequest(filter=filter_, limit=1000)
    async with control.channel() as channel:
        stub: Any = TraceSinkStub(channel)
        for page_number in itertools.count():
            page = await stub.FindTraces(request, timeout=PATIENCE, wait_for_ready=True)
            found |= {trace.trace_id: trace.spans for trace in page.traces}
            request.cursor = page.cursor
            if not page.cursor:
                break
            assert page_number < 1000
    return found


@pytest.mark.timeout(120 + 20 * ROUNDS)
async def test_what_was_acknowledged_is_there_once(tmp_path: Path) -> None:
    dice = random.Random(1)
    producers = [Producer(number) for number in range(PRODUCERS)]
    async with control_process(tmp_path, AWAITED) as control:
        async with running(*(producer.run(control) for producer in producers)) as tasks:
            for _ in range(ROUNDS):
                more = dice.randrange(2, 12)
                await asyncio.gather(*(producer.reached(producer.acknowledged + more) for producer in producers))
                await control.kill()
                await control.start()
            await asyncio.gather(*(producer.reached(producer.acknowledged + 1) for producer in producers))
            assert not any(task.done() for task in tasks)
        for producer in producers:
            found = await stored(control, producer.number)
            assert set(found.values()) == {SPANS}
            # All up to some point, which is not before what was acknowledged.
            assert found.keys() == {trace_id(producer.number, seq + 1) for seq in range(len(found))}
            assert len(found) >= producer.acknowledged > 2 * ROUNDS
