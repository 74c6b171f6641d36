"""Telemetry sent on from one real control process to another that is killed: each record is there once, or counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Counted
from prometheus_client.parser import text_string_to_metric_families

from mesh.api.metrics.v1 import MetricsStub, QueryRequest
from mesh.api.tracesink.v1 import GetCorrelationRequest, TraceSinkStub
from mesh.cli.supervisor.ready import serving_all
from mesh.telemetry.kinds import SPANS
from mesh.telemetry.metrics_push import MetricsPusher, PusherOptions
from mesh.telemetry.record import Record, to_batch
from mesh.telemetry.shipper import Shipper
from mesh.telemetry.spans import SpanRecord, to_span_batch
from services.names import TELEMETRY
from tests.e2e.registry_harness import AWAITED, PATIENCE, ControlProcess
from tests.e2e.test_collect import bodies


class Control(ControlProcess):
    """A control process with more arguments, and an HTTP port."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        super().__init__(data_dir, AWAITED)
        self.arguments = arguments
        self.http = "127.0.0.1:0"

    async def _spawn(self, *more: str, pass_fds: tuple[int, ...] = ()) -> asyncio.subprocess.Process:
        return await super()._spawn(*more, "--http", self.http, *self.arguments, pass_fds=pass_fds)

    async def start(self) -> None:
        reader, writer = os.pipe()
        try:
            self._process = await self._spawn("--ready-fd", str(writer), pass_fds=(writer,))
        finally:
            os.close(writer)
        with os.fdopen(reader) as pipe:
            line = await asyncio.wait_for(asyncio.to_thread(pipe.readline), PATIENCE)
        assert line, (await self._process.communicate())[1].decode()
        found = json.loads(line)
        self.address, self.http = found["control"], found["http"]
        await serving_all(self.address, TELEMETRY)

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series that have these labels."""

        def get() -> str:
            with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=PATIENCE) as reply:
                return str(reply.read().decode())

        families = text_string_to_metric_families(await asyncio.to_thread(get))
        samples = (sample for family in families for sample in family.samples if sample.name == name)
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@contextlib.asynccontextmanager
async def control(folder: Path, *arguments: str) -> AsyncIterator[Control]:
    process = Control(folder, *arguments)
    try:
        await process.start()
        yield process
    finally:
        await process.stop()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.1)


def export(*texts: str) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "otlp"
    scope = resource.scope_logs.add()
    for text in texts:
        scope.log_records.add(time_unix_nano=time.time_ns()).body.string_value = text
    return request


NOW = time.time_ns()
# Of one conversation, so that one request reads all of them.
SPAN = SpanRecord("4bf92f3577b34da6a3ce929d0e0e4736", "", "work", NOW, NOW + 1, service="s", correlation_id="order-8")


def export_spans(*ids: str) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "otlp"
    scope = resource.scope_spans.add()
    for id_ in ids:
        span = scope.spans.add(
            trace_id=bytes.fromhex(SPAN.trace_id), span_id=bytes.fromhex(id_), name="work", start_time_unix_nano=NOW
        )
        span.end_time_unix_nano = NOW + 1
        span.attributes.add(key="correlation_id").value.string_value = SPAN.correlation_id
    return request


async def span_ids(at: ControlProcess) -> list[str]:
    """Return the ids of all spans of SPAN's conversation."""
    async with at.channel() as channel:
        stub: Any = TraceSinkStub(channel)
        asked = GetCorrelationRequest(correlation_id=SPAN.correlation_id, limit=2_000)
        found = await stub.GetCorrelation(asked, wait_for_ready=True, timeout=PATIENCE)
    return [item.span.span_id for item in found.items if item.HasField("span")]


async def query(at: ControlProcess, promql: str) -> list[float]:
    async with at.channel() as channel:
        stub: Any = MetricsStub(channel)
        reply = await stub.Query(QueryRequest(query=promql), wait_for_ready=True, timeout=PATIENCE)
    return sorted(one.values[0] for one in reply.answer.series)


async def test_everything_is_at_the_other_end_once_over_its_kills(tmp_path: Path) -> None:
    async with control(tmp_path / "b") as other, control(tmp_path / "a", f"--forward=otlp://{other.address}") as one:
        registry = CollectorRegistry()
        ticks = Counted("ticks", "Ticks.", registry=registry)
        sent: list[str] = []
        spans: list[str] = []
        async with (
            Shipper(one.address, "test") as shipper,
            Shipper(one.address, "test", kind=SPANS) as span_shipper,
            MetricsPusher(
                one.address, registry, service="s", instance="i", options=PusherOptions(interval=1000)
            ) as pushing,
            one.channel() as channel,
        ):
            logs: Any = LogsServiceStub(channel)  # type: ignore[no-untyped-call]
            traces: Any = TraceServiceStub(channel)  # type: ignore[no-untyped-call]
            for number in range(60):
                if number in (10, 35):
                    await other.kill()
                if number in (25, 45):
                    await other.start()
                columns, otlp = [f"columnar {number}.{n}" for n in range(3)], [f"otlp {number}.{n}" for n in range(3)]
                assert shipper.put(to_batch([Record(text, correlation_id="order-7") for text in columns], 0))
                await logs.Export(export(*otlp), timeout=PATIENCE, compression=grpc.Compression.Gzip)
                sent += columns + otlp
                ids = [f"{number * 6 + n + 1:016x}" for n in range(6)]
                assert span_shipper.put(to_span_batch([replace(SPAN, span_id=id_) for id_ in ids[:3]]))
                await traces.Export(export_spans(*ids[3:]), timeout=PATIENCE, compression=grpc.Compression.Gzip)
                spans += ids
                ticks.inc()
                await pushing.flush()
        for signal, all_of, wanted in (("logs", bodies, sent), ("traces", span_ids, spans)):
            assert sorted(await all_of(one)) == sorted(wanted)

            async def arrived(all_of: Any = all_of, wanted: list[str] = wanted) -> bool:
                return len(await all_of(other)) >= len(wanted)

            await until(arrived)
            found = Counter(await all_of(other))
            assert (found - Counter(wanted), Counter(wanted) - found) == (Counter(), Counter())

            async def all_counted(signal: str = signal, wanted: list[str] = wanted) -> bool:
                return await one.metric("mesh_forward_records_total", signal=signal, outcome="sent") == len(wanted)

            await until(all_counted)
            assert await one.metric("mesh_forward_records_total", signal=signal, outcome="dropped") == 0
            assert await one.metric("mesh_forward_retries_total", signal=signal) > 0
            assert await one.metric("mesh_forward_waiting_bytes", signal=signal) == 0
        name = 'count_over_time(ticks_total{job="s",instance="i"}[10m])'

        async def same_samples() -> bool:
            return await query(other, name) == await query(one, name)

        await until(same_samples)
        assert await query(other, 'ticks_total{job="s"}') == [], "its end came over as well"
        assert await query(other, 'last_over_time(ticks_total{job="s"}[10m])') == [60]
        assert (await one.terminate())[0] == 0


async def test_what_waits_outlives_the_process_and_what_finds_no_room_is_counted(tmp_path: Path) -> None:
    async with control(tmp_path / "b") as other, control(tmp_path / "a", f"--forward=otlp://{other.address}") as one:
        await other.kill()
        async with one.channel() as channel:
            logs: Any = LogsServiceStub(channel)  # type: ignore[no-untyped-call]
            for number in range(10):
                await logs.Export(export(f"{number} " + "x" * 100_000), timeout=PATIENCE)

        async def kept() -> bool:
            return sum(path.stat().st_size for path in (tmp_path / "a").rglob("*.batch")) > 10 * 100_000

        # Nobody answers: after a second all of it is on disk, what is being sent included.
        await until(kept)
        await one.kill()
        await one.start()
        async with one.channel() as channel:
            logs = LogsServiceStub(channel)  # type: ignore[no-untyped-call]
            for number in range(10, 20):
                await logs.Export(export(f"{number} " + "x" * 100_000), wait_for_ready=True, timeout=PATIENCE)
        assert (await one.terminate())[0] == 0
        await other.start()
        await one.start()

        async def arrived() -> bool:
            return len(await bodies(other)) >= 20

        await until(arrived)
        # Each once; of two processes that left something either may come first.
        assert sorted(int(text.split()[0]) for text in await bodies(other)) == list(range(20))


async def test_opentelemetry_metrics_go_on_as_they_came(tmp_path: Path) -> None:
    async with (
        control(tmp_path / "b") as other,
        control(tmp_path / "a", f"--forward=otlp://{other.address}?signals=metrics") as one,
        one.channel() as channel,
    ):
        request = ExportMetricsServiceRequest()
        resource = request.resource_metrics.add()
        resource.resource.attributes.add(key="service.name").value.string_value = "otel"
        metric: Any = resource.scope_metrics.add().metrics.add(name="jobs.done", unit="s")
        metric.sum.is_monotonic, metric.sum.aggregation_temporality = True, 1
        for n in (3, 4):
            metric.sum.ClearField("data_points")
            metric.sum.data_points.add(time_unix_nano=time.time_ns(), as_int=n)
            stub: Any = MetricsServiceStub(channel)  # type: ignore[no-untyped-call]
            await stub.Export(request, timeout=PATIENCE)

        async def arrived() -> bool:
            return await query(other, 'jobs_done_seconds_total{job="otel"}') == [7]

        await until(arrived)
        logs: Any = LogsServiceStub(channel)  # type: ignore[no-untyped-call]
        await logs.Export(export("stays here"), timeout=PATIENCE)
        assert await one.metric("mesh_forward_records_total", signal="logs") == 0
        assert await bodies(other) == []


async def test_a_circle_of_collectors_is_seen(tmp_path: Path) -> None:
    async with control(tmp_path / "a") as one, control(tmp_path / "b", f"--forward=otlp://{one.address}") as other:
        await one.kill()
        one.arguments = (f"--forward=otlp://{other.address}",)
        await one.start()
        async with one.channel() as channel:
            logs: Any = LogsServiceStub(channel)  # type: ignore[no-untyped-call]
            await logs.Export(export("round"), timeout=PATIENCE)

        async def refused() -> bool:
            return await other.metric("mesh_forward_records_total", signal="logs", outcome="rejected") == 1

        await until(refused)
        assert (await bodies(one), await bodies(other)) == (["round"], ["round"])


@pytest.mark.parametrize(
    ("url", "says"),
    [("http://c:4317", "is not otlp://"), ("otlps://c:4317?ca=/none.pem", "/none.pem cannot be read")],
)
async def test_a_collector_that_is_none_is_said_at_the_start(tmp_path: Path, url: str, says: str) -> None:
    code, said = await Control(tmp_path / "a", f"--forward={url}").fail_to_start()
    assert (code, says in said, "Traceback" in said) == (2, True, False), said
