"""Metrics and alerts of a real mesh: scraped by themselves, asked for in PromQL, and told to a real receiver."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from prometheus_client import CollectorRegistry, Counter, start_http_server

from examples.shop.customers import outcomes
from mesh.api.metrics import v1
from mesh.api.registry.v1 import DeregisterRequest, Instance, RegisterRequest, RegistryStub
from services.metrics.alerts.delivery import SIGNATURE, TIMESTAMP, signature
from tests.e2e.harness import PATIENCE, RunningMesh, eventually, mesh, running_mesh

# One mesh for all of them.
pytestmark = pytest.mark.xdist_group("metrics")

SECRET = "a secret of the test"
RULES = """
groups:
  - name: fast
    interval: 1s
    rules:
      - alert: ProbeGone
        expr: mesh_instance_up{job="probe"} == 0
        labels: {severity: page}
        annotations: {summary: "{{ $labels.instance }} is gone"}
      - record: job:up:count
        expr: count by (job) (mesh_instance_up)
"""


class Receiver:
    """A real webhook receiver: it refuses the first delivery, and takes the others."""

    def __init__(self) -> None:
        self.taken: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.refused = 0
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.headers[SIGNATURE] == signature(SECRET, self.headers[TIMESTAMP], body)
                first, receiver.refused = not receiver.refused, receiver.refused + 1
                self.send_response(503 if first else 200)
                self.end_headers()
                if not first:
                    receiver.taken.put(json.loads(body))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def next(self, alert: str, status: str) -> dict[str, Any]:
        """Return the next delivery of that alert in that state."""
        while True:
            for one in self.taken.get(timeout=PATIENCE)["alerts"]:
                if (one["labels"]["alertname"], one["status"]) == (alert, status):
                    assert isinstance(one, dict)
                    return one


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[RunningMesh]:
    """A mesh with the shop, of this module's own: its control process is killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MESH_ALERT_SECRET", SECRET)
        folder = tmp_path_factory.mktemp("metrics")
        with running_mesh(folder, "--alert-webhook", receiver.url, demo=True) as found:
            yield found


def query(running: RunningMesh, promql: str) -> dict[str, float]:
    """Ask by the command; return values by the instance, job or service that they are of."""
    done = mesh("query", promql, "--json", "--control", running.internal)
    if done.returncode:  # the control process is being started again
        assert "no control service" in done.stderr or "not answer" in done.stderr, done.stderr
        return {}
    found = {}
    for one in json.loads(done.stdout)["series"]:
        key = next((one["labels"][name] for name in ("service", "instance", "job") if name in one["labels"]), "")
        found[key] = float(one["value"])
    return found


def ask(running: RunningMesh, path: str) -> Any:
    try:
        with urllib.request.urlopen(f"http://{running.summary['http']}/api/v1/{path}", timeout=PATIENCE) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return json.load(error)


def register(channel: grpc.Channel, name: str, ttl: float, **metadata: str) -> int:
    instance = Instance(service="probe", instance_id=name, endpoints=["127.0.0.1:1"], metadata=metadata)
    reply = RegistryStub(channel).Register(RegisterRequest(instance=instance, ttl_seconds=ttl), timeout=PATIENCE)
    return int(reply.lease_id)


def test_the_traffic_of_the_shop_shows(running: RunningMesh) -> None:
    eventually(lambda: query(running, 'up{job="mesh-edge"} == 1'), "the edge is scraped")
    placed = 0
    total = 'sum by (service) (mesh_edge_calls_total{method=~".*PlaceOrder",code="OK"})'

    def shows() -> bool:
        nonlocal placed
        placed += sum(asyncio.run(outcomes(running.public, 10)).values())
        seen = query(running, total).get("storefront", 0)
        # Nobody calls orders through the edge: it tells of its calls itself.
        served = query(running, "sum by (job) (rate(rpc_server_call_duration_seconds_count[1m]))")
        return bool(seen) and served.get("orders", 0) > 0

    eventually(shows, "the edge and orders have told of calls")
    shown = mesh("query", total, "--control", running.internal)
    assert shown.stdout.splitlines()[0].split() == ["SERVICE", "VALUE"]
    graph = mesh("query", total, "--range", "1m", "--step", "5s", "--control", running.internal)
    assert "storefront" in graph.stdout
    assert graph.returncode == 0


def test_an_instance_that_offers_metrics_is_scraped_by_itself(running: RunningMesh) -> None:
    own = CollectorRegistry()
    Counter("things", "Things.", registry=own).inc(7)
    server, thread = start_http_server(0, "127.0.0.1", own)
    try:
        with grpc.insecure_channel(running.internal) as channel:
            lease = register(channel, "with-metrics", 30, metrics=str(server.server_port))
            eventually(lambda: query(running, 'things_total{job="probe"}') == {"with-metrics": 7.0}, "it is scraped")
            assert query(running, "up{job='probe'}") == {"with-metrics": 1.0}
            RegistryStub(channel).Deregister(DeregisterRequest(lease_id=lease), timeout=PATIENCE)
            eventually(lambda: not query(running, '{job="probe"}'), "it ended: nothing of it is left")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_alert_is_told_signed_and_once_over_a_kill_of_the_control_process(
    running: RunningMesh, receiver: Receiver, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    done = mesh("alerts", "rules", "put", "fast", str(rules), "--control", running.internal)
    assert (done.returncode, done.stderr) == (0, "")
    with grpc.insecure_channel(running.internal) as channel:
        register(channel, "dies", 1)
        told = receiver.next("ProbeGone", "firing")  # refused once, and delivered again
        assert told["annotations"] == {"summary": "dies is gone"}
        assert told["labels"]["severity"] == "page"
        assert query(running, "job:up:count")["probe"] == 1.0

        eventually(
            lambda: mesh("alerts", "ack", "ProbeGone", "-m", "at it", "--control", running.internal).returncode == 0
        )
        os.kill(running.pid("control"), signal.SIGKILL)

        def alerts() -> list[Any]:
            found = mesh("alerts", "--json", "--control", running.internal)
            return json.loads(found.stdout) if found.returncode == 0 else []

        (gone,) = eventually(lambda: [one for one in alerts() if one["labels"]["alertname"] == "ProbeGone"])
        assert (gone["state"], gone["acknowledged"]["comment"]) == ("firing", "at it")
        assert gone["id"] == told["fingerprint"]
        eventually(lambda: query(running, 'mesh_instance_up{instance="dies"}') == {"dies": 0.0}, "it is still gone")
        eventually(lambda: "job:up:count" in mesh("alerts", "rules", "--control", running.internal).stdout)

        lease = eventually(lambda: register(channel, "dies", 30))
        assert receiver.next("ProbeGone", "resolved")["fingerprint"] == told["fingerprint"]
        RegistryStub(channel).Deregister(DeregisterRequest(lease_id=lease), timeout=PATIENCE)


@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("query?query=sum(", "bad_data", "parse error"),
        ("query", "bad_data", '"query": it is missing'),
        ("query?query=up&time=soon", "bad_data", "valid timestamp"),
        ("query_range?query=up&start=0&end=11001&step=1", "bad_data", "more than 11000 steps"),
        ("label/1a/values", "bad_data", "invalid label name"),
        ("query?query=topk(1e300,up)", "execution", "1e+300 overflows"),
        ("query_range?query=up&start=0&end=1&step=0", "bad_data", "step"),
        ("series", "bad_data", "match[]"),
        ("series?match[]=up[5m]", "bad_data", "plain series selector"),
        ("query?query=" + "(" * 300, "bad_data", "nest deeper"),
        ("query?query=%ff", "bad_data", "cannot be read"),
    ],
)
def test_bad_http_requests_are_refused(running: RunningMesh, path: str, kind: str, says: str) -> None:
    answer = ask(running, path)
    assert (answer["status"], answer["errorType"]) == ("error", kind)
    assert says in answer["error"]


def test_prometheus_own_clients_can_ask(running: RunningMesh) -> None:
    eventually(lambda: query(running, "up"))
    assert {one["labels"]["job"] for one in ask(running, "targets")["data"]["activeTargets"]} >= {"mesh-edge"}
    assert "mesh-edge" in ask(running, "label/job/values")["data"]
    assert "job" in ask(running, "labels")["data"]
    assert ask(running, "metadata?metric=up")["data"]["up"][0]["type"] == "gauge"
    assert ask(running, "status/buildinfo")["data"]["version"]
    assert ask(running, "query_exemplars?query=up")["data"] == []
    assert ask(running, "rules?type=alert")["data"]["groups"]
    assert ask(running, "alerts")["status"] == "success"
    (ones,) = ask(running, "query_range?query=1&start=0&end=11000&step=1")["data"]["result"]
    assert (len(ones["values"]), ones["values"][-1]) == (11_001, [11_000, "1"])
    if (promtool := shutil.which("promtool")) is None:
        return
    for arguments in (("instant",), ("range", "--step=1s")):
        asked = [promtool, "query", *arguments, f"http://{running.summary['http']}", "sum by (job) (up)"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr
        assert 'job="mesh-edge"' in done.stdout


def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()


def test_a_silence_from_its_begin_to_its_end(running: RunningMesh) -> None:
    def said(*arguments: str) -> str:
        done = mesh("alerts", *arguments, "--control", running.internal)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    name = said("silence", "job=moved", "--for", "2h", "-m", "moving house").split()[1].rstrip(",")
    (shown,) = [one for one in json.loads(said("silences", "--json")) if one["id"] == name]
    assert (shown["state"], shown["matchers"], shown["comment"]) == ("active", 'job="moved"', "moving house")
    assert shown["until"] > time.time() + 3600
    assert said("unsilence", name) == f"silence {name} has ended\n"
    assert any(line.split()[:2] == [name, "ended"] for line in said("silences").splitlines())
    again = mesh("alerts", "unsilence", "nobody", "--control", running.internal)
    assert (again.returncode, again.stderr) == (1, "mesh: there is no silence 'nobody': see mesh alerts silences\n")


def test_bad_grpc_requests_are_refused(running: RunningMesh) -> None:
    with grpc.insecure_channel(running.control) as channel:
        stub = v1.MetricsStub(channel)
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        code, says = status_of(lambda: stub.Query(v1.QueryRequest(query="sum("), timeout=PATIENCE))
        assert (code, "parse error" in says) == (invalid, True)
        code, _ = status_of(lambda: stub.Query(v1.QueryRequest(query="up + on() up"), timeout=PATIENCE))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        code, says = status_of(lambda: stub.PutRules(v1.PutRulesRequest(file="x", yaml="groups: 3"), timeout=PATIENCE))
        assert (code, says) == (invalid, "x.groups: it is not a list")
        code, _ = status_of(lambda: stub.Acknowledge(v1.AcknowledgeRequest(alert="None"), timeout=PATIENCE))
        assert code is grpc.StatusCode.NOT_FOUND
        for matchers in ((), ("a",), ('a=~"("',)):
            request = v1.SilenceRequest(matchers=matchers, ends_at_ms=2**60)
            assert status_of(lambda request=request: stub.Silence(request, timeout=PATIENCE))[0] is invalid
        broken: Any = channel.unary_unary("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
        code, _ = status_of(lambda: broken(b"\x0a\xff\xff\xff\xff\x0fnonsense", timeout=PATIENCE))
        assert code is invalid
        broken = channel.unary_unary("/mesh.metrics.v1.Metrics/Query")
        assert status_of(lambda: broken(b"\xff", timeout=PATIENCE))[0] is invalid
        broken = channel.stream_stream("/mesh.metrics.v1.Metrics/Push")
        assert status_of(lambda: list(broken(iter((b"\xff",)), timeout=PATIENCE)))[0] is invalid


def test_pushed_samples_are_durable_and_stored_once(running: RunningMesh) -> None:
    with grpc.insecure_channel(running.control) as channel:
        stub = v1.MetricsStub(channel)
        now = int(eventually(lambda: query(running, "time()"))[""] * 1000)
        series = [v1.SeriesDefinition(ref=i, labels={"__name__": "pushed", "n": str(i)}) for i in range(3)]
        first = v1.PushRequest(
            producer="test", seq=1, series=series, refs=[0, 1, 2], times_ms=[now] * 3, values=[1, 2, 4]
        )
        second = v1.PushRequest(producer="test", seq=2, refs=[0, 1], times_ms=[now, 0], values=[8, 8])
        for _ in range(2):
            answers = list(stub.Push(iter((first, second)), timeout=PATIENCE))
            assert [one.durable_seq for one in answers][-1] == 2
        assert query(running, "sum(count_over_time(pushed[1m]))") == {"": 3.0}
        bad = v1.PushRequest(producer="test", seq=3, refs=[0], times_ms=[now], values=[1])
        code, says = status_of(lambda: list(stub.Push(iter((bad,)), timeout=PATIENCE)))
        assert (code, says) == (grpc.StatusCode.INVALID_ARGUMENT, "refs: 0 was not defined on this stream")


def test_opentelemetry_is_taken_compressed_and_in_part(running: RunningMesh) -> None:
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    attribute = resource.resource.attributes.add(key="service.name")
    attribute.value.string_value = "from-otel"
    now = int(eventually(lambda: query(running, "time()"))[""] * 1e9)
    for name, at in (("otel.good", now), ("otel.bad", 0)):
        metric = resource.scope_metrics.add().metrics.add(name=name, unit="s")
        metric.gauge.data_points.add(time_unix_nano=at, as_double=1.5)
    with grpc.insecure_channel(running.control) as channel:
        stub: Any = MetricsServiceStub(channel)  # type: ignore[no-untyped-call]
        reply = stub.Export(request, timeout=PATIENCE, compression=grpc.Compression.Gzip)
    assert reply.partial_success.rejected_data_points == 1
    assert "otel.bad: a data point has no time" in reply.partial_success.error_message
    assert query(running, 'otel_good_seconds{job="from-otel"}') == {"from-otel": 1.5}
