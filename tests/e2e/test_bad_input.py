"""What is wrong with what comes in: a precise status, a count on /metrics, and nothing lost of what is well."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mesh.api.logsink.v1 import Filter, LogBatch, LogSinkStub, PushRequest, SearchRequest
from mesh.api.metrics.v1 import MetricsStub, QueryRequest
from mesh.cli.supervisor.ready import serving_all
from services.forwarding.options import Signal
from services.forwarding.split import SHAPES
from services.names import TELEMETRY
from tests.e2e.harness import PATIENCE, Running, channel, eventually

# One control process for all of them.
pytestmark = pytest.mark.xdist_group("bad input")

# More than 64 MiB, of which a compressed request of 70 kB is made.
BOMB = 80 << 20
CODES = grpc.StatusCode


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yield the addresses of a control process: gRPC and HTTP."""
    folder = tmp_path_factory.mktemp("bad")
    options = ("--json", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", str(folder / "data"))
    started = Running.start(folder, "control", *options)
    try:
        found = json.loads(started.next_line())
        asyncio.run(serving_all(found["control"], TELEMETRY))
        yield found
        assert started.stop() == 0
        assert "Traceback" not in started.stderr
    finally:
        started.kill()


def _labels(labels: Mapping[str, str]) -> list[str]:
    """Return the signal before the reason."""
    return [value for _, value in sorted(labels.items(), reverse=True)]


class Counts:
    """What /metrics has gained since this was made."""

    def __init__(self, running: dict[str, str]) -> None:
        self._url = f"http://{running['http']}/metrics"
        self._before = self._all()

    def _all(self) -> dict[tuple[str, ...], float]:
        with urllib.request.urlopen(self._url, timeout=PATIENCE) as reply:
            families = text_string_to_metric_families(reply.read().decode())
        wanted = ("mesh_ingest_bad_input_total", "mesh_ingested_records_total", "mesh_metrics_query_failures_total")
        return {
            (sample.name.removesuffix("_total").removeprefix("mesh_"), *_labels(sample.labels)): sample.value
            for family in families
            for sample in family.samples
            if sample.name in wanted
        }

    def gained(self, *, without: str = "metrics") -> dict[tuple[str, ...], float]:
        """Return what has grown; samples stored are left out, since the process scrapes itself."""
        now = self._all()
        grown = {key: value - self._before.get(key, 0) for key, value in now.items()}
        return {key: value for key, value in grown.items() if value and key != ("ingested_records", without)}


def _gained(counts: Counts, wanted: Mapping[tuple[str, ...], float]) -> bool:
    return counts.gained() == wanted


def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details() or ""


def send(address: str, signal: Signal, data: bytes, compression: grpc.Compression | None = None) -> bytes:
    with grpc.insecure_channel(address) as opened:
        call: Any = opened.unary_unary(SHAPES[signal].method)
        return bytes(call(data, timeout=PATIENCE, compression=compression))


def export(signal: Signal, at_ns: int) -> Any:
    """Return a request with one record, of one time."""
    shape = SHAPES[signal]
    request = shape.request()
    scope = getattr(getattr(request, shape.fields[0]).add(), shape.fields[1]).add()
    if signal is Signal.LOGS:
        scope.log_records.add(time_unix_nano=at_ns).body.string_value = "x"
    elif signal is Signal.TRACES:
        scope.spans.add(
            start_time_unix_nano=at_ns, end_time_unix_nano=at_ns, trace_id=b"t" * 16, span_id=b"s" * 8, name="x"
        )
    else:
        scope.metrics.add(name="x").gauge.data_points.add(time_unix_nano=at_ns, as_double=1)
    return request


@pytest.mark.parametrize("signal", list(Signal))
def test_what_is_no_message_is_refused_and_counted(running: dict[str, str], signal: Signal) -> None:
    good = export(signal, time.time_ns()).SerializeToString()
    # Cut off; of the wrong kind; text that is no UTF-8.
    # The name of a scope, below a resource: 0xff is in no UTF-8.
    invalid = b"\x0a\x08\x12\x06\x0a\x04\x0a\x02\xff\xfe"
    for data in (good[:-1], b"\xff" * 20, invalid):
        counts = Counts(running)
        code, said = status_of(lambda data=data: send(running["control"], signal, data))
        assert (code, counts.gained()) == (
            CODES.INVALID_ARGUMENT,
            {("ingest_bad_input", signal.value, "undecodable"): 1},
        )
        assert "UTF-8?" in said
    counts = Counts(running)
    send(running["control"], signal, good)
    assert counts.gained(without="")[("ingested_records", signal.value)] >= 1


@pytest.mark.parametrize("signal", list(Signal))
def test_what_is_too_large_is_refused_before_it_costs_memory(running: dict[str, str], signal: Signal) -> None:
    for compression in (None, grpc.Compression.Gzip):
        counts = Counts(running)
        code, said = status_of(lambda how=compression: send(running["control"], signal, bytes(BOMB), how))
        assert (code, "larger than max" in said) == (CODES.RESOURCE_EXHAUSTED, True), said
        # The core answers before the handler hears of it.
        wanted: dict[tuple[str, ...], float] = {("ingest_bad_input", signal.value, "too_large"): 1}
        eventually(partial(_gained, counts, wanted), "it is counted")
    send(running["control"], signal, export(signal, time.time_ns()).SerializeToString())


@pytest.mark.parametrize("at_ns", [1, 2**63 - 1, 2**64 - 1], ids=["1970", "2262", "most"])
@pytest.mark.parametrize("signal", list(Signal))
def test_absurd_times_lose_no_record_and_are_counted(running: dict[str, str], signal: Signal, at_ns: int) -> None:
    counts = Counts(running)
    reply = SHAPES[signal].response.FromString(
        send(running["control"], signal, export(signal, at_ns).SerializeToString(), grpc.Compression.Gzip)
    )
    gained = counts.gained(without="metrics" if signal is Signal.METRICS else "")
    assert gained.get(("ingest_bad_input", signal.value, "absurd_time")) == 1
    if signal is Signal.METRICS:
        assert reply.partial_success.rejected_data_points == 1
        assert "their time" in reply.partial_success.error_message
    else:
        assert gained[("ingested_records", signal.value)] == 1
        assert not reply.partial_success.ByteSize()


def test_malformed_columns_are_answered_on_the_stream_and_counted(running: dict[str, str]) -> None:
    counts, now = Counts(running), time.time_ns()
    bad = PushRequest(producer="bad", seq=1, batch=LogBatch(ts_ns=[now, now], severity_number=[1]))
    good = PushRequest(producer="bad", seq=1, batch=LogBatch(ts_ns=[now]))
    with channel(running["control"]) as opened:
        replies = list(LogSinkStub(opened).Push(iter((bad, good)), timeout=PATIENCE))
    assert [(one.durable_seq, bool(one.rejected)) for one in replies] == [(0, True), (1, False)]
    gained = counts.gained()
    assert gained.pop(("ingested_records", "logs")) == 1
    assert gained == {("ingest_bad_input", "logs", "rejected"): 1}


@pytest.mark.parametrize(
    ("query", "code", "reason"),
    [
        ("sum(", CODES.INVALID_ARGUMENT, "bad_query"),
        ("up[5m", CODES.INVALID_ARGUMENT, "bad_query"),
        ("(" * 300, CODES.INVALID_ARGUMENT, "bad_query"),
        ("label_replace(x, 'a', '$1', 'b', '(')", CODES.INVALID_ARGUMENT, "bad_query"),
    ],
)
def test_bad_promql_is_refused_and_counted(
    running: dict[str, str], query: str, code: grpc.StatusCode, reason: str
) -> None:
    counts = Counts(running)
    with channel(running["control"]) as opened:
        stub = MetricsStub(opened)
        assert status_of(lambda: stub.Query(QueryRequest(query=query), timeout=PATIENCE))[0] is code
    assert counts.gained() == {("metrics_query_failures", reason): 1}


def test_a_search_that_makes_no_sense_is_refused(running: dict[str, str]) -> None:
    with channel(running["control"]) as opened:
        stub = LogSinkStub(opened)
        for wanted, says in ((Filter(), "time range"), (Filter(start_ns=1, end_ns=2, regex="("), "")):
            code, said = status_of(lambda one=wanted: stub.Search(SearchRequest(filter=one), timeout=PATIENCE))
            assert (code, says in said) == (CODES.INVALID_ARGUMENT, True), said
