"""`mesh up`: ready when it says so, heals, says what is wrong, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.e2e.harness import (
    ANY_PORTS,
    PATIENCE,
    Running,
    RunningMesh,
    channel,
    eventually,
    instances,
    left_over,
    mesh,
    start_mesh,
)


def is_serving(address: str, service: str = "") -> bool:
    with channel(address) as opened:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = health_pb2_grpc.HealthStub(opened).Check(request, timeout=PATIENCE)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningMesh]:
    """A mesh for one test, which may break it."""
    started = start_mesh(tmp_path)
    yield started
    started.kill()


def test_the_table_is_printed_when_all_is_ready(tmp_path: Path) -> None:
    running = Running.start(tmp_path, "up", *ANY_PORTS, env={"XDG_DATA_HOME": str(tmp_path / "xdg")})
    try:
        printed = running.next_line()
        while "grpcurl" not in printed and "mesh services" not in printed:
            printed += running.next_line()
        addresses = dict(line.split()[:2] for line in printed.splitlines() if line.startswith("  "))
        assert addresses.keys() == {"public", "internal", "admin", "metrics", "data"}
        # Where data goes without an option.
        assert addresses["data"] == str(tmp_path / "xdg" / "meshplane")
        assert is_serving(addresses["public"])
        assert is_serving(addresses["internal"], "mesh.registry.v1.Registry")
        assert instances(addresses["internal"]).keys()
    finally:
        code = running.stop(signal.SIGINT)
    assert code == 0
    # No terminal, no progress; and nothing went wrong.
    assert running.stderr == ""


def test_a_part_that_dies_is_started_again_where_it_was(own: RunningMesh) -> None:
    for part in ("control", "edge"):
        os.kill(own.pid(part), signal.SIGKILL)
        said = f"mesh: {part} was killed by SIGKILL; it starts again in 0.1 s\n"
        eventually(lambda said=said: said in own.stderr)  # type: ignore[misc]
        eventually(lambda: is_serving(own.public) and is_serving(own.control))
        eventually(lambda: {"mesh-control", "mesh-edge"} <= {one.service for one in instances(own.internal).values()})
    assert own.stop() == 0


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with taken_port() as port:
        listeners = ("--public", f"127.0.0.1:{port}", "--internal", "127.0.0.1:0", "--admin", "127.0.0.1:0")
        running = Running.start(tmp_path, "up", "--data-dir", str(tmp_path / "data"), "--json", *listeners)
        assert running.ended() == 1
    assert running.stderr.count("\n") == 1
    assert running.stderr.startswith("mesh: edge cannot start: ")
    assert f"127.0.0.1:{port}" in running.stderr
    assert "--public" in running.stderr


@pytest.mark.xdist_group("plain")
def test_a_second_mesh_on_the_same_data_is_one_line(plain: RunningMesh) -> None:
    second = mesh("up", "--data-dir", plain.summary["data_dir"], *ANY_PORTS)
    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr == (
        f"mesh: another mesh (process {plain.process.pid}) runs on the data folder {plain.summary['data_dir']}: "
        "stop it, or choose another folder with --data-dir\n"
    )


def test_a_data_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    failed = mesh("up", "--data-dir", str(tmp_path / "file" / "data"), *ANY_PORTS)
    assert failed.returncode == 1
    assert failed.stderr == (
        f"mesh: cannot write to the data folder {tmp_path}/file/data: Not a directory; "
        "choose another one with --data-dir\n"
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("breaker = [", "is not valid TOML"),
        ("colour = 'red'", "unknown key 'colour'"),
        ("grace = 'long'", "'grace' must be a number"),
    ],
)
def test_a_broken_config_file_is_one_line(tmp_path: Path, content: str, says: str) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(content)
    failed = mesh("up", "--data-dir", str(tmp_path / "data"), *ANY_PORTS, "--config", str(config))
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert str(config) in failed.stderr
    assert says in failed.stderr


def test_the_config_file_is_the_edges_and_options_go_before_it(tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text('public = "127.0.0.1:1"\ninternal = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n')
    running = start_mesh(tmp_path, "--public", "127.0.0.1:0", "--config", str(config), listeners=())
    assert is_serving(running.public)
    assert running.stop() == 0


@pytest.mark.parametrize(
    "wrong", [("up", "--public", "nowhere"), ("up", "--engine", "steam"), ("up", "--no-such-option"), ("down",)]
)
def test_bad_usage_is_one_line_and_2(wrong: tuple[str, ...]) -> None:
    failed = mesh(*wrong)
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.startswith("mesh: ")
    assert failed.stderr.count("\n") == 1


def test_a_stop_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    running = Running.start(tmp_path, "up", "--demo", "--data-dir", str(tmp_path / "data"), "--json", *ANY_PORTS)
    # The supervisor and its first part.
    eventually(lambda: len(left_over(running.mark)) > 1)
    assert running.stop() == 0


def test_a_supervisor_that_is_killed_takes_all_with_it(tmp_path: Path) -> None:
    running = start_mesh(tmp_path, "--grace", "0", demo=True)
    names = {" ".join(process.cmdline()) for process in left_over(running.mark)}
    assert sum("examples.shop" in name and "mesh.cli" not in name for name in names) == len(running.summary["demo"])
    running.process.kill()
    running.process.wait(PATIENCE)
    try:
        eventually(lambda: not left_over(running.mark), "all processes have ended")
    finally:
        running.kill()


def test_an_instance_of_the_demo_that_dies_comes_back(tmp_path: Path) -> None:
    running = start_mesh(tmp_path, demo=True)
    try:
        where = running.summary["demo"]["payments-1"]
        (shop,) = (
            process
            for process in left_over(running.mark)
            if process.cmdline()[1:4] == ["-m", "examples.shop", "payments"]
        )
        shop.kill()
        eventually(lambda: "payments-1 was killed by SIGKILL; it starts again in 0.1 s\n" in running.stderr)
        eventually(lambda: is_serving(where, "shop.v1.Payments"))
    finally:
        code = running.stop()
    assert code == 0


@pytest.mark.xdist_group("plain")
def test_the_metrics_are_at_the_admin_address(plain: RunningMesh) -> None:
    with urllib.request.urlopen(f"http://{plain.admin}/metrics", timeout=PATIENCE) as answer:
        assert answer.status == 200
