"""An edge of several processes: one address, one /metrics, and no call lost while its workers are replaced."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from examples.shop.api.v1 import InventoryStub, ListStockRequest
from tests.e2e.harness import (
    ANY_PORTS,
    PATIENCE,
    Running,
    RunningMesh,
    channel,
    eventually,
    grpcurl,
    instances,
    mesh,
    running_mesh,
)

LIST_STOCK = "shop.v1.Inventory/ListStock"


def scrape(admin: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=PATIENCE) as reply:
        text = reply.read().decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def calls(admin: str, method: str = LIST_STOCK) -> float:
    return sum(value for labels, value in scrape(admin).get("mesh_edge_calls_total", ()) if labels["method"] == method)


def workers(running: RunningMesh) -> dict[int, psutil.Process]:
    """Return the processes of the workers by their index."""
    found = {}
    for process in psutil.Process(running.pid("edge")).children():
        with contextlib.suppress(psutil.Error):
            for argument in process.cmdline():
                if argument.startswith("--worker="):
                    found[json.loads(argument.removeprefix("--worker="))["index"]] = process
    return found


def answer(admin: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{admin}/{path}", timeout=PATIENCE) as reply:
            return reply.status, reply.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()


class Load:
    """Clients that call without a pause: some keep their connection, some make one for each call."""

    def __init__(self, address: str, *, keeping: int = 3, connecting: int = 2) -> None:
        self.address = address
        self.failures: list[str] = []
        self.done = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._keep) for _ in range(keeping)]
        self._threads += [threading.Thread(target=self._connect) for _ in range(connecting)]

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(PATIENCE)

    def _channel(self) -> contextlib.AbstractContextManager[grpc.Channel]:
        return channel(self.address)

    def _once(self, opened: grpc.Channel) -> None:
        InventoryStub(opened).ListStock(ListStockRequest(), timeout=PATIENCE)

    def _keep(self) -> None:
        with self._channel() as opened:
            while not self._stop.is_set():
                self._call(opened)

    def _connect(self) -> None:
        while not self._stop.is_set():
            with self._channel() as opened:
                self._call(opened)

    def _call(self, opened: grpc.Channel) -> None:
        try:
            self._once(opened)
        except grpc.RpcError as error:
            self.failures.append(f"{error.code()}: {error.details()}")
        with self._lock:
            self.done += 1


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A shop behind an edge of two workers on the wire engine."""
    with running_mesh(tmp_path_factory.mktemp("two"), "--engine", "wire", "--workers", "2", demo=True) as running:
        yield running


pytestmark = pytest.mark.xdist_group("workers")


def test_workers_share_one_address_and_are_shown_one_by_one(two: RunningMesh) -> None:
    edges = instances(two.control, "mesh-edge")
    assert [name.rpartition("-")[2] for name in sorted(edges)] == ["w0", "w1"]
    assert {one.metadata["internal"] for one in edges.values()} == {two.internal}
    assert len({one.endpoints[0] for one in edges.values()} | {two.internal}) == 3
    shown = json.loads(two.mesh("services", "--json").stdout)
    (inventory,) = [one for one in shown["services"] if one["name"] == "inventory"]
    assert sorted(inventory["instances"][0]["endpoints"][0]["edges"]) == sorted(edges)


def test_metrics_are_those_of_all_workers(two: RunningMesh) -> None:
    before = calls(two.admin)
    for _ in range(12):  # a connection each: over both workers, in all likelihood
        assert grpcurl("-d", "{}", two.internal, LIST_STOCK).returncode == 0
    assert calls(two.admin) == before + 12
    now = scrape(two.admin)
    assert now["mesh_edge_workers"] == [({}, 2)]
    assert {labels["worker"] for labels, _ in now["process_resident_memory_bytes"]} == {"0", "1", "master"}
    assert now["mesh_edge_registry_connected"] == [({}, 1)]
    assert len(now["mesh_edge_info"]) == 2
    assert answer(two.admin, "healthz") == (200, "ok")
    assert answer(two.admin, "readyz") == (200, "ready")


def test_a_rolling_restart_under_load_loses_no_call(two: RunningMesh) -> None:
    before, counted = workers(two), calls(two.admin)
    with Load(two.internal).running() as load:
        eventually(lambda: load.done > 100, "the load runs")
        os.kill(two.pid("edge"), signal.SIGHUP)
        eventually(lambda: "all workers are replaced" in two.log("edge"), "the workers are replaced")
        seen = load.done
        eventually(lambda: load.done > seen + 100, "the load goes on")
    assert load.failures == []
    after = workers(two)
    assert before.keys() == after.keys() == {0, 1}
    assert {one.pid for one in before.values()}.isdisjoint(one.pid for one in after.values())
    assert calls(two.admin) == counted + load.done, "what ended workers did stays counted, once"
    assert len(instances(two.control, "mesh-edge")) == 2


def test_a_worker_that_is_killed_is_started_again_and_what_it_did_stays_counted(two: RunningMesh) -> None:
    assert grpcurl("-d", "{}", two.internal, LIST_STOCK).returncode == 0
    counted = calls(two.admin)  # a scrape: what came before it is known of a worker that is killed
    before = workers(two)
    before[0].kill()
    eventually(lambda: workers(two).keys() == {0, 1} and workers(two)[0].pid != before[0].pid, "it is started again")
    # In the queue of its socket, or served: nothing is refused meanwhile.
    for _ in range(8):
        assert grpcurl("-d", "{}", two.internal, LIST_STOCK).returncode == 0
    eventually(lambda: answer(two.admin, "readyz") == (200, "ready"), "all workers serve")
    assert calls(two.admin) == counted + 8
    assert scrape(two.admin)["mesh_edge_worker_restarts_total"] == [({}, 1)]
    assert workers(two)[1].pid == before[1].pid
    assert "worker 0 was killed by SIGKILL" in two.log("edge")


def test_a_replacement_that_cannot_start_leaves_the_old_worker_in_force(tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text("[limits]\nmax_headers = 64\n")
    with running_mesh(tmp_path, "--engine", "wire", "--workers", "2", "--config", str(config)) as running:
        before = {index: one.pid for index, one in workers(running).items()}
        config.write_text("[limits]\nmax_headers = 0\n")
        os.kill(running.pid("edge"), signal.SIGHUP)
        eventually(lambda: "the workers are not replaced" in running.log("edge"), "it says so")
        assert "limits.max_headers must be at least 1" in running.log("edge")
        assert {index: one.pid for index, one in workers(running).items()} == before
        assert answer(running.admin, "readyz") == (200, "ready")


def test_the_aio_engine_has_workers_too(tmp_path: Path) -> None:
    with running_mesh(tmp_path, "--engine", "aio", "--workers", "2", demo=True) as running:
        before = workers(running)
        for _ in range(4):
            assert grpcurl("-d", "{}", running.internal, LIST_STOCK).returncode == 0
        assert calls(running.admin) == 4
        # Its sockets cannot be handed over, so a connection that its listener has not accepted yet may be reset: calls
        # on connections that stand go through, and new connections are made when the restart is over.
        with Load(running.internal, keeping=2, connecting=0).running() as load:
            eventually(lambda: load.done > 20, "the load runs")
            os.kill(running.pid("edge"), signal.SIGHUP)
            eventually(lambda: "all workers are replaced" in running.log("edge"), "the workers are replaced")
            seen = load.done
            eventually(lambda: load.done > seen + 20, "the load goes on")
        assert {one.pid for one in before.values()}.isdisjoint(one.pid for one in workers(running).values())
        # grpc's server ends what it has only just accepted when it stops; nothing else may go wrong.
        allowed = ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED")
        assert [failure for failure in load.failures if not failure.startswith(allowed)] == []
        assert len(load.failures) <= 4, "no more than what was in the moment of its beginning, twice"


@pytest.mark.parametrize("engine", ["aio", "wire"])
def test_a_port_in_use_is_one_clear_line(tmp_path: Path, engine: str) -> None:
    with socket.socket() as taken:
        # As unfriendly as can be: a mesh of the same user that shares its port, too.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        options = ("--public", address, "--internal", "127.0.0.1:0", "--admin", "127.0.0.1:0")
        ended = mesh("edge", "--control", "127.0.0.1:1", "--engine", engine, "--workers", "2", *options)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"mesh: cannot listen on {address} (Address already in use): free it")


def test_workers_end_when_their_master_is_killed(tmp_path: Path) -> None:
    started = Running.start(
        tmp_path, "edge", "--control", "127.0.0.1:1", "--engine", "wire", "--workers", "2", "--access-log", "off",
        "--json", *ANY_PORTS,
    )  # fmt: skip
    try:
        ready = json.loads(started.next_line())
        assert ready["workers"] == "2"
        assert answer(ready["admin"], "readyz")[0] == 503, "no registry yet"
        started.process.kill()
        started.process.wait(PATIENCE)
        eventually(lambda: not started_left(started), "the workers have ended")
    finally:
        started.kill()


def started_left(started: Running) -> list[psutil.Process]:
    from tests.e2e.harness import left_over

    return left_over(started.mark)
