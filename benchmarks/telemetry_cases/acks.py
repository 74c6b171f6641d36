"""How long senders wait for what they sent to be durable, at a given rate: half of what one core shall do."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from benchmarks.telemetry_cases.ingest import control, cpu
from benchmarks.telemetry_cases.kinds import LOGS, SPANS, Kind
from mesh.api.tracesink.v1 import GetCorrelationRequest

SENDERS = 8
# Records a second of all senders, and of one message.
COLUMNAR_RATE, OTLP_LOGS_RATE, OTLP_SPANS_RATE = 75_000, 35_000, 20_000
MESSAGE = 1_000


async def measure(folder: Path, seconds: float) -> dict[str, float]:
    """Send by each way in for so long."""
    found: dict[str, float] = {}
    for name, kind, rate, sender in (
        ("columnar logs", LOGS, COLUMNAR_RATE, _pushing),
        ("OTLP logs", LOGS, OTLP_LOGS_RATE, _exporting),
        ("OTLP spans", SPANS, OTLP_SPANS_RATE, _exporting),
    ):
        waits: list[float] = []
        lookups: list[float] = []
        async with (
            control(folder / name.replace(" ", "-")) as (address, process),
            grpc.aio.insecure_channel(address) as channel,
        ):
            spent, begun = cpu(process), time.perf_counter()
            asking = asyncio.create_task(_asking(channel, lookups))
            await asyncio.gather(*(sender(channel, kind, number, rate, seconds, waits) for number in range(SENDERS)))
            asking.cancel()
            taken = time.perf_counter() - begun
            spent = cpu(process) - spent
        await asyncio.gather(asking, return_exceptions=True)
        percent = statistics.quantiles(waits, n=1000)
        found |= {
            f"{name}, records/s": len(waits) * MESSAGE / taken,
            f"{name}, cores used": spent / taken,
            f"{name}, acknowledged after, p50 ms": percent[499] * 1000,
            f"{name}, acknowledged after, p99 ms": percent[989] * 1000,
            f"{name}, acknowledged after, p99.9 ms": percent[998] * 1000,
            f"{name}, a conversation found meanwhile, p50 ms": statistics.median(lookups) * 1000,
            f"{name}, a conversation found meanwhile, max ms": max(lookups) * 1000,
        }
    return found


async def _asking(channel: grpc.aio.Channel, waits: list[float]) -> None:
    """Look something up, four times a second."""
    ask: Any = channel.unary_unary("/mesh.tracesink.v1.TraceSink/GetCorrelation")
    while True:
        begun = time.perf_counter()
        await ask(GetCorrelationRequest(correlation_id="nobody's").SerializeToString())
        waits.append(time.perf_counter() - begun)
        await asyncio.sleep(0.25)


async def _pushing(
    channel: grpc.aio.Channel, kind: Kind, number: int, rate: float, seconds: float, waits: list[float]
) -> None:
    """Push on one stream; a batch waits for none before it."""
    batch = kind.request(batch=kind.columnar(MESSAGE, number * MESSAGE)).SerializeToString()
    open_: Any = channel.stream_stream(kind.push, response_deserializer=kind.response.FromString)
    call = open_()
    due: list[float] = []

    async def read() -> None:
        async for reply in call:
            assert not reply.rejected, reply
            while reply.durable_seq > len(done):
                done.append(time.perf_counter())

    done: list[float] = []
    reading = asyncio.ensure_future(read())

    async def send(place: int) -> None:
        head = kind.request(producer=f"s{number}", seq=place + 1, after=place).SerializeToString()
        due.append(time.perf_counter())
        await call.write(head + batch)

    await _paced(number, rate, seconds, send)
    await call.done_writing()
    await reading
    waits += [at - since for at, since in zip(done, due, strict=True)]


async def _exporting(
    channel: grpc.aio.Channel, kind: Kind, number: int, rate: float, seconds: float, waits: list[float]
) -> None:
    message = kind.otlp(MESSAGE, number * MESSAGE)
    export: Any = channel.unary_unary(kind.export)
    running: set[asyncio.Task[None]] = set()

    async def one() -> None:
        begun = time.perf_counter()
        await export(message)
        waits.append(time.perf_counter() - begun)

    async def send(_: int) -> None:
        running.add(task := asyncio.create_task(one()))
        task.add_done_callback(running.discard)

    await _paced(number, rate, seconds, send)
    await asyncio.gather(*running)


async def _paced(number: int, rate: float, seconds: float, send: Callable[[int], Awaitable[None]]) -> None:
    """Call `send` such that all senders make `rate` records a second, whatever became of those before."""
    step = MESSAGE * SENDERS / rate
    begun = time.perf_counter() + step * number / SENDERS
    for place in range(int(seconds / step)):
        await asyncio.sleep(max(0.0, begun + place * step - time.perf_counter()))
        await send(place)
