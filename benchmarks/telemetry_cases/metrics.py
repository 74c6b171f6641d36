"""The case `metrics`: samples stored a second, and range queries, each beside a yardstick.

Storing stands beside bare DuckDB that is given the same batches as Arrow tables, one transaction each, durable.
Pushing, in columns and as OTLP, goes through gRPC into a control process, whose CPU is counted until all samples can
be found. Range queries go over HTTP to a control process and to a real Prometheus, where one is installed, with the
same samples in both; each is asked three times in a row, in turns, and the median is over all, the first time included.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import grpc
import numpy as np
import psutil
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from mesh.api.metrics import v1
from mesh.cli.supervisor.ready import serving_all
from services.metrics import tables
from services.metrics.options import MetricsOptions
from services.metrics.promql.labels import from_mapping
from services.metrics.samples import Samples
from services.metrics.store import MetricStore
from services.names import TELEMETRY
from services.storage.columns.base import Scope
from services.storage.columns.urls import open_columns
from tests.unit.services.metrics.promql.prometheus_server import installed, running

SERIES, BATCH = 1000, 100_000
OTLP_POINTS, OTLP_AT_ONCE, OTLP_METHOD = (
    5000,
    8,
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
)
QUERIES = {
    "sum of rates": "sum(rate(load_total[5m]))",
    "rates by job": "sum by (job) (rate(load_total[1m]))",
    "quantile of a histogram": "histogram_quantile(0.9, sum by (le) (rate(load_seconds_bucket[5m])))",
    "maximum over time": "max by (job) (max_over_time(load_gauge[10m]))",
    "plain series": "load_gauge",
    "one series": 'rate(load_total{instance="i7"}[5m])',
}


def batches(count: int, start: int) -> Iterator[Samples]:
    """Yield batches of 1000 series, 100 samples each, a second apart."""
    labels = [from_mapping({"__name__": "load_total", "job": f"j{i % 10}", "instance": f"i{i}"}) for i in range(SERIES)]
    rounds = BATCH // SERIES
    which = np.tile(np.arange(SERIES, dtype=np.int64), rounds)
    for batch in range(count):
        at = start + (batch * rounds + np.repeat(np.arange(rounds, dtype=np.int64), SERIES)) * 1000
        yield Samples(labels, which, at, np.random.default_rng(batch).random(BATCH).cumsum())


async def store(folder: Path, count: int, start: int) -> dict[str, float]:
    made = list(batches(count, start))
    options = MetricsOptions()
    async with open_columns(f"duckdb://{folder}/ours.db", tables.schemas(options.max_age)) as columns:
        metrics = MetricStore(columns, options)
        await metrics.load()

        async def found() -> None:
            await columns.query("SELECT count(*) FROM {s}", (), {"s": Scope(tables.SAMPLES)})

        return await _timed(count, [*(partial(metrics.append, one, source="x") for one in made), found])


async def bare(folder: Path, count: int, start: int) -> dict[str, float]:
    made = list(batches(count, start))
    ids = np.arange(SERIES, dtype=np.int64)
    con = duckdb.connect(str(folder / "bare.db"), config={"threads": 2, "memory_limit": "512MB"})
    con.execute("CREATE TABLE samples (series_id BIGINT, ts_ms BIGINT, value DOUBLE)")

    async def append(one: Samples) -> None:
        rows = tables.samples_table(ids[one.which], one.ts, one.values)  # noqa: F841 - DuckDB reads it by its name
        con.begin()
        con.execute("INSERT INTO samples SELECT * FROM rows")
        con.commit()

    return await _timed(count, [partial(append, one) for one in made])


async def _timed(count: int, works: list[Callable[[], Any]]) -> dict[str, float]:
    began, cpu = time.perf_counter(), time.process_time()
    for work in works:
        await work()
    total = count * BATCH
    return {"a second": total / (time.perf_counter() - began), "a core second": total / (time.process_time() - cpu)}


@contextlib.contextmanager
def control(folder: Path) -> Iterator[tuple[str, str, psutil.Process]]:
    """Run a control process; gives its gRPC and HTTP addresses, and it."""
    reader, writer = os.pipe()
    arguments = ["--data-dir", str(folder / "data"), "--http", "127.0.0.1:0", "--ready-fd", str(writer)]
    process = subprocess.Popen([sys.executable, "-m", "services", *arguments], pass_fds=(writer,))
    os.close(writer)
    try:
        with os.fdopen(reader) as pipe:
            ready = json.loads(pipe.readline())
        yield ready["control"], ready["http"], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


async def push(folder: Path, count: int, start: int) -> dict[str, float]:
    requests = []
    for seq, one in enumerate(batches(count, start), 1):
        series = [v1.SeriesDefinition(ref=i, labels=dict(labels)) for i, labels in enumerate(one.series)]
        requests.append(
            v1.PushRequest(
                producer="bench",
                seq=seq,
                series=series if seq == 1 else (),
                refs=one.which.tolist(),
                times_ms=one.ts.tolist(),
                values=one.values.tolist(),
            )
        )
    with control(folder) as (address, _, process):
        await serving_all(address, TELEMETRY)
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = v1.MetricsStub(channel)
            before, began = _cpu(process), time.perf_counter()
            async for answer in stub.Push(iter(requests)):
                assert not answer.rejected, answer.reason
            # What is asked for waits until all that was acknowledged is in the database.
            await stub.Query(v1.QueryRequest(query='load_total{instance="i0"}'))
            total, seconds = count * BATCH, time.perf_counter() - began
            return {"a second": total / seconds, "a core second": total / (_cpu(process) - before)}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def load(end: int) -> list[tuple[dict[str, str], list[int], list[float]]]:
    """Return an hour of 1000 counters, 500 gauges and 50 histograms, a sample every 10 s."""
    rng = np.random.default_rng(7)
    times = list(range(end - 3_600_000, end, 10_000))
    found = []
    for i in range(SERIES):
        labels = {"__name__": "load_total", "job": f"j{i % 10}", "instance": f"i{i}"}
        found.append((labels, times, rng.integers(0, 50, len(times)).cumsum().astype(float).tolist()))
    for i in range(SERIES // 2):
        labels = {"__name__": "load_gauge", "job": f"j{i % 10}", "instance": f"i{i}"}
        found.append((labels, times, rng.random(len(times)).tolist()))
    for i in range(50):
        counts = rng.integers(0, 9, (8, len(times))).cumsum(axis=1).cumsum(axis=0).astype(float)
        for le, row in zip(("0.01", "0.05", "0.1", "0.5", "1", "5", "10", "+Inf"), counts, strict=True):
            found.append(({"__name__": "load_seconds_bucket", "instance": f"i{i}", "le": le}, times, row.tolist()))
    return found


async def ranges(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    end = time.time_ns() // 1_000_000 - 5000
    series = load(end)
    with control(folder) as (address, http, _), running(folder) as prometheus:
        await serving_all(address, TELEMETRY)
        prometheus.write(series)
        await _write(address, series)
        found: dict[str, dict[str, list[float]]] = {}
        for _ in range(rounds):
            for name, query in QUERIES.items():
                for who, where in (("ours", http), ("Prometheus", prometheus.address)) * 3:
                    seconds = _asked(where, query, end)
                    found.setdefault(name, {}).setdefault(who, []).append(seconds)
    return {name: {who: statistics.median(seconds) for who, seconds in by.items()} for name, by in found.items()}


async def _write(address: str, series: list[tuple[dict[str, str], list[int], list[float]]]) -> None:
    def requests() -> Iterator[v1.PushRequest]:
        rows = np.array([values for _, _, values in series])
        times = series[0][1]
        for seq, first in enumerate(range(0, len(times), 30), 1):
            part = times[first : first + 30]
            yield v1.PushRequest(
                producer="bench",
                seq=seq,
                series=[v1.SeriesDefinition(ref=i, labels=labels) for i, (labels, _, _) in enumerate(series)]
                if seq == 1
                else (),
                refs=list(range(len(series))) * len(part),
                times_ms=np.repeat(part, len(series)).tolist(),
                values=rows[:, first : first + 30].T.ravel().tolist(),
            )

    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = v1.MetricsStub(channel)
        async for answer in stub.Push(requests()):
            assert not answer.rejected, answer.reason


def _asked(address: str, query: str, end: int) -> float:
    """Return the seconds of a range query: an hour, every 15 s."""
    form = {"query": query, "start": (end - 3_600_000) / 1000, "end": end / 1000, "step": 15}
    request = urllib.request.Request(f"http://{address}/api/v1/query_range", data=urllib.parse.urlencode(form).encode())
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - loopback
        body = reply.read()
    seconds = time.perf_counter() - began
    assert body.startswith(b'{"status":"success"'), body[:200]
    assert len(body) > 500, body
    return seconds


def otlp_requests(count: int, start: int) -> list[bytes]:
    """Return requests of 1000 series of one counter, five points each, a second apart."""
    made = []
    for number in range(count * BATCH // OTLP_POINTS):
        request = ExportMetricsServiceRequest()
        resource = request.resource_metrics.add()
        resource.resource.attributes.add(key="service.name").value.string_value = "load"
        metric = resource.scope_metrics.add().metrics.add(name="load")
        metric.sum.is_monotonic = True
        metric.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        for point in range(OTLP_POINTS):
            at, which = divmod(point, SERIES)
            made_at = (start + (number * (OTLP_POINTS // SERIES) + at) * 1000) * 1_000_000
            one = metric.sum.data_points.add(time_unix_nano=made_at, as_double=float(number + point))
            for key, value in (("job", f"j{which % 10}"), ("part", f"p{which}")):
                one.attributes.add(key=key).value.string_value = value
        made.append(request.SerializeToString())
    return made


async def otlp(folder: Path, count: int, start: int) -> dict[str, float]:
    waiting = otlp_requests(count, start)
    total = len(waiting) * OTLP_POINTS
    with control(folder) as (address, _, process):
        await serving_all(address, TELEMETRY)
        async with grpc.aio.insecure_channel(address) as channel:
            export: Any = channel.unary_unary(OTLP_METHOD)

            async def send() -> None:
                while waiting:
                    assert not await export(waiting.pop()), "some samples were refused"

            before, began = _cpu(process), time.perf_counter()
            await asyncio.gather(*(send() for _ in range(OTLP_AT_ONCE)))
            await v1.MetricsStub(channel).Query(v1.QueryRequest(query='load_total{part="p0"}'))
            seconds = time.perf_counter() - began
            return {"a second": total / seconds, "a core second": total / (_cpu(process) - before)}


async def measure(folder: Path, *, quick: bool) -> dict[str, float]:
    """Return samples a second, and milliseconds of the range queries."""
    count, rounds = (5, 2) if quick else (40, 5)
    start = time.time_ns() // 1_000_000 - 3_600_000
    found: dict[str, float] = {}
    cases = (
        ("bare DuckDB", bare, count),
        ("store alone", store, count),
        ("pushed in columns", push, count),
        ("pushed as OTLP", otlp, max(1, count // 5)),
    )
    for number, (name, case, batch_count) in enumerate(cases):
        place = folder / str(number)
        place.mkdir()
        for what, rate in (await case(place, batch_count, start)).items():
            found[f"{name}, samples {what}"] = rate
    if installed() is None:
        print("  no Prometheus is installed here to compare range queries with")
        return found
    for name, by in (await ranges(folder, rounds)).items():
        for who, seconds in by.items():
            found[f"{name}, {who}, ms"] = seconds * 1000
        found[f"{name}, ratio"] = by["ours"] / by["Prometheus"]
    return found
