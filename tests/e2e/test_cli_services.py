"""`mesh services` and `mesh version`: what a person and a program are told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent import futures
from pathlib import Path

import grpc
import pytest

import mesh as product
from examples.shop.api.v1 import (
    ChargeRequest,
    FaultsStub,
    PaymentsStub,
    PlaceOrderRequest,
    SetFaultRequest,
    StorefrontStub,
)
from tests.e2e.harness import PATIENCE, Running, RunningMesh, channel, eventually, mesh

pytestmark = pytest.mark.xdist_group("demo")


def test_the_table(demo: RunningMesh) -> None:
    shown = demo.mesh("services")
    assert (shown.returncode, shown.stderr) == (0, "")
    head, *rows = [line.split() for line in shown.stdout.split("\n\n")[0].splitlines()]
    assert head == ["SERVICE", "EXPOSED", "INSTANCE", "ENDPOINT", "VERSION", "HEALTH", "BREAKER", "IN", "FLIGHT"]
    where = demo.summary["demo"]
    assert ["storefront", "public", "storefront-1", where["storefront-1"], "1.0.0", "SERVING", "CLOSED", "0"] in rows
    assert ["orders", "internal", "orders-2", where["orders-2"], "1.1.0", "SERVING", "CLOSED", "0"] in rows
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    edge = shown.stdout.split("\n\n")[1]
    assert edge.startswith("edge ")
    assert f"at {demo.internal}: engine wire, calls " in edge
    assert edge.endswith("registry connected\n")


def test_the_same_for_programs_from_the_edge_and_from_the_control_process(demo: RunningMesh) -> None:
    for control in (demo.internal, demo.control):
        shown = mesh("services", "--json", env={"MESH_CONTROL": control})
        assert (shown.returncode, shown.stderr) == (0, "")
        known = json.loads(shown.stdout)
        services = {service["name"]: service for service in known["services"]}
        assert services["storefront"]["exposure"] == "PUBLIC"
        assert services["orders"]["grpc_services"] == ["shop.v1.Orders"]
        assert [one["instance_id"] for one in services["orders"]["instances"]] == ["orders-1", "orders-2"]
        (endpoint,) = services["orders"]["instances"][0]["endpoints"]
        assert endpoint["address"] == demo.summary["demo"]["orders-1"]
        assert endpoint["breaker"] == "CLOSED"
        (edge,) = known["edges"]
        assert edge["engine"] == "wire"
        assert edge["registry_connected"] is True
        assert endpoint["edges"][edge["instance_id"]]["breaker"] == "CLOSED"


def test_a_breaker_that_opens_is_seen(demo: RunningMesh) -> None:
    def breaker() -> str:
        services = {
            service["name"]: service for service in json.loads(demo.mesh("services", "--json").stdout)["services"]
        }
        return str(services["payments"]["instances"][0]["endpoints"][0]["breaker"])

    # The edge's own breaker: the shop's services call each other directly, and have breakers of their own.
    with channel(demo.summary["demo"]["payments-1"]) as own, channel(demo.internal) as opened:
        faults, payments = FaultsStub(own), PaymentsStub(opened)
        charge = ChargeRequest(order_id="breaker", amount_cents=1)

        def charged() -> bool:
            try:
                payments.Charge(charge, timeout=PATIENCE)
            except grpc.RpcError as error:
                return "breaker" in str(error.details())
            return False

        faults.SetFault(SetFaultRequest(error_rate=1, error_code="INTERNAL"), timeout=PATIENCE)
        try:
            eventually(charged, "a charge is refused by a breaker")
            assert breaker() in ("OPEN", "HALF_OPEN")
        finally:
            faults.SetFault(SetFaultRequest(), timeout=PATIENCE)
        # It heals by itself, once calls probe it.
        eventually(lambda: payments.Charge(charge, timeout=PATIENCE) and breaker() == "CLOSED")


def test_watching_prints_it_again_when_it_changes(demo: RunningMesh, tmp_path: Path) -> None:
    watching = Running.start(tmp_path, "services", "--watch", "--json", "--control", demo.internal)
    try:
        before = json.loads(watching.next_line())
        with channel(demo.public) as opened:
            StorefrontStub(opened).PlaceOrder(PlaceOrderRequest(sku="tea"), timeout=PATIENCE)
        assert json.loads(watching.next_line()) != before
    finally:
        assert watching.stop(signal.SIGINT) == 0
    assert watching.stderr == ""


def test_a_reader_that_has_enough_ends_it_quietly(demo: RunningMesh) -> None:
    watching = [sys.executable, "-m", "mesh.cli", "services", "--watch", "--control", demo.internal]
    with subprocess.Popen(watching, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("SERVICE")
        process.stdout.close()
        with channel(demo.public) as opened:
            # A change, so that there is something to print.
            StorefrontStub(opened).PlaceOrder(PlaceOrderRequest(sku="tea"), timeout=PATIENCE)
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_nobody_there_is_one_line() -> None:
    failed = mesh("services", "--control", "127.0.0.1:1")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.count("\n") == 1
    assert "127.0.0.1:1" in failed.stderr
    assert "MESH_CONTROL" in failed.stderr


def test_somebody_else_there_is_one_line() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        failed = mesh("services", "--control", f"127.0.0.1:{port}")
    finally:
        server.stop(0).wait()
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.count("\n") == 1
    assert f"127.0.0.1:{port} answers, but" in failed.stderr


@pytest.mark.parametrize(
    "wrong", [("--control", "here"), ("--control", "127.0.0.1:0"), ("extra",), ("--control", "127.0.0.1:99999")]
)
def test_bad_usage_is_one_line_and_2(wrong: tuple[str, ...]) -> None:
    failed = mesh("services", *wrong)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (2, "", 1)


def test_the_environment_can_be_wrong_too() -> None:
    failed = mesh("services", env={"MESH_CONTROL": "nowhere"})
    assert failed.returncode == 2
    assert failed.stderr.startswith("mesh: MESH_CONTROL: 'nowhere' is not HOST:PORT")


def test_version() -> None:
    assert mesh("version").stdout.startswith(f"meshplane {product.__version__} python 3.")
    assert json.loads(mesh("version", "--json").stdout)["meshplane"] == product.__version__


@pytest.mark.parametrize("command", ["up", "edge", "control", "register", "services"])
def test_every_command_shows_how_it_is_used(command: str) -> None:
    shown = mesh(command, "--help")
    assert shown.returncode == 0
    assert "Examples:" in shown.stdout
    assert f"mesh {command}" in shown.stdout.split("Examples:")[1]
