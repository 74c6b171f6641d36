"""How fast records become durable."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil

from benchmarks.telemetry_cases.kinds import Kind
from mesh.api.tracesink.v1 import GetCorrelationRequest
from mesh.cli.supervisor.ready import serving_all
from services.names import TELEMETRY
from services.sinks.messages import fields_of
from services.storage.columns.base import Options
from services.storage.columns.duckdb_file import DuckDbFile
from services.storage.columns.rows import Batch

BATCH = 5_000
OTLP_BATCH = 2_000
STREAMS = 4
DISTINCT = 8


@asynccontextmanager
async def control(folder: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Run a control process; yields its address and it."""
    reader, writer = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services", "--data-dir", str(folder / "data"), "--ready-fd", str(writer)),
        pass_fds=(writer,),
    )
    os.close(writer)
    with os.fdopen(reader) as pipe:
        address = json.loads(await asyncio.to_thread(pipe.readline))["control"]
    try:
        await serving_all(address, TELEMETRY)
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def columnar(folder: Path, rows: int, kind: Kind) -> dict[str, float]:
    """Push batches of 5,000 on a few streams, each with two on their way."""
    batches = [kind.request(batch=kind.columnar(BATCH, n * BATCH)).SerializeToString() for n in range(DISTINCT)]
    latencies: list[float] = []
    async with control(folder) as (address, process):
        options = (("grpc.max_send_message_length", -1),)
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            begun, spent = time.perf_counter(), cpu(process)
            count = rows // BATCH // STREAMS
            await asyncio.gather(*(_stream(channel, kind, f"s{n}", batches, count, latencies) for n in range(STREAMS)))
            await _searchable(channel)
            seconds, spent = time.perf_counter() - begun, cpu(process) - spent
        memory = process.memory_info().rss / 2**20
    total = count * STREAMS * BATCH
    return (
        _rates(kind, "columnar push", total, seconds, spent)
        | _acks(latencies)
        | {
            "control process, MiB": memory,
            **await asyncio.to_thread(bare, folder, total, kind),
        }
    )


async def _searchable(channel: grpc.aio.Channel) -> None:
    """Wait until all that was acknowledged is in the database: its share of the work counts as well."""
    ask: Any = channel.unary_unary("/mesh.tracesink.v1.TraceSink/GetCorrelation")
    await ask(GetCorrelationRequest(correlation_id="nobody's").SerializeToString())


async def _stream(
    channel: grpc.aio.Channel, kind: Kind, producer: str, batches: list[bytes], count: int, latencies: list[float]
) -> None:
    open_: Any = channel.stream_stream(kind.push, response_deserializer=kind.response.FromString)
    call = open_()
    room = asyncio.Semaphore(2)
    sent: list[float] = []

    async def read() -> None:
        for number in range(count):
            reply = await call.read()
            assert reply.durable_seq >= number + 1, reply
            latencies.append(time.perf_counter() - sent[number])
            room.release()

    reading = asyncio.ensure_future(read())
    for number in range(count):
        await room.acquire()
        head = kind.request(producer=producer, seq=number + 1, after=number).SerializeToString()
        sent.append(time.perf_counter())
        await call.write(head + batches[number % len(batches)])
    await reading
    await call.done_writing()


async def otlp(folder: Path, rows: int, kind: Kind) -> dict[str, float]:
    """Export messages of 2,000 records, four at a time."""
    messages = [kind.otlp(OTLP_BATCH, n * OTLP_BATCH) for n in range(DISTINCT)]
    latencies: list[float] = []
    async with control(folder) as (address, process), grpc.aio.insecure_channel(address) as channel:
        export: Any = channel.unary_unary(kind.export)
        begun, spent = time.perf_counter(), cpu(process)
        count = rows // OTLP_BATCH // STREAMS

        async def send(first: int) -> None:
            for number in range(count):
                at = time.perf_counter()
                await export(messages[(first + number) % DISTINCT])
                latencies.append(time.perf_counter() - at)

        await asyncio.gather(*(send(n) for n in range(STREAMS)))
        await _searchable(channel)
        seconds, spent = time.perf_counter() - begun, cpu(process) - spent
        memory = process.memory_info().rss / 2**20
    total = count * STREAMS * OTLP_BATCH
    return (
        _rates(kind, "OTLP export", total, seconds, spent)
        | _acks(latencies)
        | {
            "control process, MiB": memory,
            **await asyncio.to_thread(bare, folder, total, kind),
        }
    )


def bare(folder: Path, rows: int, kind: Kind) -> dict[str, float]:
    """Append the same rows to DuckDB in this process: no gRPC, no decoding, a transaction a batch, no index of keys."""
    import duckdb

    now = time.time_ns()
    tables = [kind.from_batch(fields_of(kind.columnar(BATCH, n * BATCH)), now)[0] for n in range(DISTINCT)]
    file = DuckDbFile(folder / "bare.duckdb", {kind.schema.name: kind.schema}, Options())
    file.open()
    file.put([Batch({kind.schema.name: tables[0].slice(0, 1)}, "", 0, None, 0, 1)], 1)  # makes the tables
    (period,) = file.periods
    con: duckdb.DuckDBPyConnection = file.cursor()
    names = ", ".join(kind.schema.columns)
    begun, spent = time.perf_counter(), time.process_time()
    for number in range(rows // BATCH):
        con.register("rows", tables[number % DISTINCT])
        con.execute(f"INSERT INTO {period.name} ({names}) SELECT {names} FROM rows")  # noqa: S608
        con.unregister("rows")
    found = _rates(kind, "DuckDB alone", rows, time.perf_counter() - begun, time.process_time() - spent)
    file.close()
    return found


def _rates(kind: Kind, what: str, rows: int, seconds: float, spent: float) -> dict[str, float]:
    return {f"{what}, {kind.name}/s of one core": rows / spent, f"{what}, {kind.name}/s by the clock": rows / seconds}


def _acks(latencies: list[float]) -> dict[str, float]:
    return {
        "acknowledged after, p50 ms": statistics.median(latencies) * 1000,
        "acknowledged after, p99 ms": statistics.quantiles(latencies, n=100)[98] * 1000,
    }
