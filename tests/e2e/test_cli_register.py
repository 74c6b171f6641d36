"""`mesh register`: a server that knows nothing of the mesh is in it, as it is, as long as the command runs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from examples.shop.api.v1 import InventoryStub, ListStockRequest
from mesh.api.registry.v1 import OPINION_SOURCE_CHECK, Exposure, Health
from tests.e2e.harness import PATIENCE, Running, RunningMesh, channel, eventually, instances, mesh, running_mesh

# One mesh for all of them.
pytestmark = pytest.mark.xdist_group("plain")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAME = "shop.v1.Payments"


class OnlyCheck(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """A health service of a library that has no Watch."""

    def __init__(self) -> None:
        self.status = SERVING

    def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=self.status)

    def set(self, service: str, status: Any) -> None:
        self.status = status


@dataclass
class Target:
    """A server that knows nothing of the mesh."""

    server: grpc.Server
    port: int
    health: Any

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def start_target(*, port: int = 0, reflects: bool = True, servicer: Any = None, checked: bool = True) -> Target:
    server = grpc.server(futures.ThreadPoolExecutor(8), options=(("grpc.so_reuseport", 0),))
    servicer = servicer or health.HealthServicer()
    if checked:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if reflects:
        reflection.enable_server_reflection((NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return Target(server, bound, servicer)


@contextlib.contextmanager
def target(**options: Any) -> Iterator[Target]:
    started = start_target(**options)
    try:
        yield started
    finally:
        started.server.stop(0).wait()


@contextlib.contextmanager
def registering(folder: Path, plain: RunningMesh, *arguments: str) -> Iterator[Running]:
    running = Running.start(folder, "register", "--control", plain.internal, *arguments)
    try:
        yield running
    finally:
        running.kill()


def service_name() -> str:
    """Return a service of one test's own: the mesh remembers services that were."""
    return f"s{uuid.uuid4().hex[:10]}"


def state(plain: RunningMesh, service: str) -> Health.ValueType | None:
    """Return the health of the service's one instance; None when it has none."""
    found = list(instances(plain.control, service).values())
    return found[0].health if found else None


def becomes(plain: RunningMesh, service: str, health: Health.ValueType | None) -> None:
    eventually(lambda: state(plain, service) == health, f"{service} is {health}")


def test_names_are_reflected_and_ctrl_c_takes_it_out(plain: RunningMesh, tmp_path: Path) -> None:
    service = service_name()
    options = ("--public", "--version", "1.2", "--zone", "z", "--weight", "7", "--metadata", "team=blue")
    with target() as server, registering(tmp_path, plain, service, server.address, *options) as running:
        assert running.next_line() == (
            f"{service} at {server.address} is in the mesh as {service}-{server.address} with {NAME}. "
            "Ctrl-C takes it out.\n"
        )
        (instance,) = instances(plain.control, service).values()
        assert list(instance.endpoints) == [server.address]
        assert list(instance.grpc_services) == [NAME]
        assert (instance.version, instance.zone, instance.weight) == ("1.2", "z", 7)
        assert dict(instance.metadata) == {"team": "blue"}
        assert instance.exposure == Exposure.EXPOSURE_PUBLIC
        becomes(plain, service, Health.HEALTH_SERVING)
        assert running.stop(signal.SIGINT) == 0
        assert state(plain, service) is None
        assert running.stderr.endswith("deregistered\n")


def test_health_is_followed(plain: RunningMesh, tmp_path: Path) -> None:
    service = service_name()
    with target() as server, registering(tmp_path, plain, service, server.address) as running:
        running.next_line()
        becomes(plain, service, Health.HEALTH_SERVING)
        server.health.set(NAME, NOT_SERVING)
        becomes(plain, service, Health.HEALTH_NOT_SERVING)
        server.health.set(NAME, SERVING)
        becomes(plain, service, Health.HEALTH_SERVING)
        server.health.set("", NOT_SERVING)
        becomes(plain, service, Health.HEALTH_NOT_SERVING)


def test_the_control_services_check_it_where_that_is_asked_for(plain: RunningMesh, tmp_path: Path) -> None:
    service = service_name()
    options = ("--check-interval", "1", "--ttl", "3600")
    with target() as server, registering(tmp_path, plain, service, server.address, *options) as running:
        running.next_line()
        becomes(plain, service, Health.HEALTH_SERVING)
        (instance,) = instances(plain.control, service).values()
        assert instance.check.interval_seconds == 1
        # Whoever keeps it registered hears and says nothing any more.
        running.process.send_signal(signal.SIGSTOP)
        try:
            server.health.set("", NOT_SERVING)
            becomes(plain, service, Health.HEALTH_NOT_SERVING)
            (instance,) = instances(plain.control, service).values()
            assert OPINION_SOURCE_CHECK in {opinion.source for opinion in instance.opinions}
            server.health.set("", SERVING)
            becomes(plain, service, Health.HEALTH_SERVING)
        finally:
            running.process.send_signal(signal.SIGCONT)


def test_health_is_asked_for_where_it_cannot_be_watched(plain: RunningMesh, tmp_path: Path) -> None:
    service = service_name()
    with (
        target(servicer=OnlyCheck()) as server,
        registering(tmp_path, plain, service, server.address) as running,
    ):
        running.next_line()
        becomes(plain, service, Health.HEALTH_SERVING)
        server.health.set("", NOT_SERVING)
        becomes(plain, service, Health.HEALTH_NOT_SERVING)


@pytest.mark.parametrize("checked", [True, False])
def test_a_server_that_is_away_gets_no_calls_until_it_is_back(
    plain: RunningMesh,
    tmp_path: Path,
    checked: bool,  # noqa: FBT001 - a case of the test
) -> None:
    service = service_name()
    server = start_target(checked=checked)
    try:
        with registering(tmp_path, plain, service, server.address) as running:
            running.next_line()
            becomes(plain, service, Health.HEALTH_SERVING)
            server.server.stop(0).wait()
            becomes(plain, service, Health.HEALTH_NOT_SERVING)
            server = start_target(checked=checked, port=server.port)
            becomes(plain, service, Health.HEALTH_SERVING)
            assert running.stop() == 0
    finally:
        server.server.stop(0).wait()


def test_a_server_without_reflection_needs_names(plain: RunningMesh, tmp_path: Path) -> None:
    service = service_name()
    with target(reflects=False) as server:
        failed = plain.mesh("register", service, server.address)
        assert failed.returncode == 2
        assert failed.stderr == (
            f"mesh: the server at {server.address} has no reflection: name what it serves with --grpc-service\n"
        )
        names = ("--grpc-service", "a.v1.A", "--grpc-service", "b.v1.B")
        with registering(tmp_path, plain, service, server.address, *names) as running:
            running.next_line()
            (instance,) = instances(plain.control, service).values()
            assert list(instance.grpc_services) == ["a.v1.A", "b.v1.B"]


def test_nothing_there_is_one_line(plain: RunningMesh) -> None:
    with target() as server:
        gone = server.address
    failed = plain.mesh("register", service_name(), gone, "--wait", "0.2")
    assert failed.returncode == 1
    assert failed.stderr == (
        f"mesh: no gRPC server answers at {gone} within 0.2 s: start it, or let it take longer with --wait\n"
    )


def test_no_registry_is_one_line() -> None:
    with target() as server, target() as other:
        failed = mesh("register", service_name(), server.address, "--wait", "0.5", "--control", other.address)
    assert failed.returncode == 1
    news, error = failed.stderr.splitlines()
    assert news.endswith(", retrying")
    assert error.startswith(f"mesh: {other.address} ")
    assert error.endswith("; given up after 0.5 s (--wait)")


@pytest.mark.parametrize(
    ("wrong", "code"), [(("--metadata", "blue"), 2), (("--ttl", "0"), 2), (("--weight", "1001"), 2)]
)
def test_bad_options_are_one_line(plain: RunningMesh, wrong: tuple[str, ...], code: int) -> None:
    failed = plain.mesh("register", "orders", "127.0.0.1:1", *wrong)
    assert (failed.returncode, failed.stderr.count("\n")) == (code, 1)


def test_a_name_that_the_registry_refuses_is_one_line(plain: RunningMesh) -> None:
    with target() as server:
        failed = plain.mesh("register", "Not_A_Name", server.address)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "Not_A_Name" in failed.stderr


def test_another_registration_of_the_same_instance_ends_the_first(plain: RunningMesh, tmp_path: Path) -> None:
    service = service_name()
    options = (service, "--instance-id", "one", "--ttl", "1")
    with contextlib.ExitStack() as stack:
        old, new = stack.enter_context(target()), stack.enter_context(target())
        first = stack.enter_context(registering(tmp_path, plain, *options, old.address))
        first.next_line()
        second = stack.enter_context(registering(tmp_path, plain, *options, new.address))
        second.next_line()
        assert first.ended() == 1
        assert first.stderr.splitlines()[-1].startswith(f"mesh: another registration took '{service}' instance 'one'")
        (instance,) = instances(plain.control, service).values()
        assert list(instance.endpoints) == [new.address]


def shop(service: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-m", "examples.shop", service, "--alone", "--listen", "{address}")


def test_a_command_is_started_registered_and_stopped(plain: RunningMesh, tmp_path: Path) -> None:
    service = service_name()
    with registering(tmp_path, plain, service, "127.0.0.1:0", *shop("inventory")) as running:
        printed = running.next_line()
        # The shop's own line comes first: its output is passed through.
        where = printed.split()[-1]
        assert f"{service} at {where} is in the mesh" in running.next_line()
        becomes(plain, service, Health.HEALTH_SERVING)
        with channel(plain.internal) as opened:
            assert eventually(lambda: InventoryStub(opened).ListStock(ListStockRequest(), timeout=PATIENCE)).stock
        # It leaves the mesh, then it is asked to end; it ends well, and so does the command.
        assert running.stop() == 0
        assert state(plain, service) is None


def test_a_command_that_ends_is_taken_out_and_its_exit_code_passed_on(plain: RunningMesh, tmp_path: Path) -> None:
    script = (
        "import sys; from concurrent import futures; import grpc; server = grpc.server(futures.ThreadPoolExecutor(1));"
        "server.add_insecure_port(sys.argv[1]); server.start(); open(sys.argv[2]).read(); sys.exit(7)"
    )
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    service = service_name()
    command = ("--", sys.executable, "-c", script, "{address}", str(fifo))
    with registering(tmp_path, plain, service, "127.0.0.1:0", "--grpc-service", "a.v1.A", *command) as running:
        running.next_line()
        becomes(plain, service, Health.HEALTH_SERVING)
        fifo.write_text("now")
        assert running.ended() == 7
        assert state(plain, service) is None
        assert running.stderr.endswith(f"mesh: {service}: its command exited with 7\n")


def test_a_command_that_does_not_exist_is_one_line(plain: RunningMesh) -> None:
    failed = plain.mesh("register", "orders", "127.0.0.1:0", "--", "/no/such/program")
    assert failed.returncode == 1
    assert failed.stderr == "mesh: cannot run '/no/such/program': No such file or directory\n"


def test_the_registry_being_away_for_a_while_is_survived(tmp_path: Path) -> None:
    service = service_name()
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(running_mesh(tmp_path))
        server = stack.enter_context(target())
        running = stack.enter_context(registering(tmp_path, own, service, server.address))
        running.next_line()
        becomes(own, service, Health.HEALTH_SERVING)
        os.kill(own.pid("control"), signal.SIGKILL)
        eventually(lambda: state(own, service) == Health.HEALTH_SERVING)
        server.health.set("", NOT_SERVING)
        becomes(own, service, Health.HEALTH_NOT_SERVING)
        assert running.stop() == 0
