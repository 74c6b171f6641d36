"""The whole mesh over mutual TLS: control process, edge, an instance, and the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from examples.shop.api.v1 import InventoryStub, ListStockRequest
from tests.certificates import Authority
from tests.e2e.harness import PATIENCE, Running, eventually, mesh

LOCAL = "127.0.0.1"
ANY = f"{LOCAL}:0"


class Site:
    """One authority, and files for everybody."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.ca = self.authority.write(folder, "ca")
        self.server = self.sign("server")
        self.client = self.sign("client")

    def sign(self, name: str, days: int = 2) -> tuple[str, str]:
        return self.authority.sign(name, names=(LOCAL,), days=days).write(self.folder, name)

    @property
    def env(self) -> dict[str, str]:
        return {"MESH_CA": self.ca, "MESH_CERT": self.client[0], "MESH_KEY": self.client[1]}

    def start(self, *arguments: str) -> tuple[Running, dict[str, str]]:
        started = Running.start(self.folder, *arguments, "--json", env=self.env)
        try:
            addresses: dict[str, str] = json.loads(started.next_line())
        except BaseException:
            started.kill()
            raise
        return started, addresses

    def control(self) -> tuple[Running, dict[str, str]]:
        cert, key = self.server
        files = ("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", self.ca)
        return self.start("control", "--listen", ANY, "--data-dir", str(self.folder / "data"), *files)

    def edge(self, control: str) -> tuple[Running, dict[str, str]]:
        cert, key = self.server
        files = ("--internal-tls-cert", cert, "--internal-tls-key", key, "--internal-tls-client-ca", self.ca)
        own = (
            "--upstream-tls-ca",
            self.ca,
            "--upstream-tls-cert",
            self.client[0],
            "--upstream-tls-key",
            self.client[1],
        )
        listeners = ("--public", ANY, "--internal", ANY, "--admin", ANY, "--access-log", "off")
        return self.start("edge", "--control", control, *listeners, *files, *own)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def control(site: Site) -> Iterator[str]:
    running, addresses = site.control()
    yield addresses["control"]
    assert running.stop() == 0, running.stderr


def test_all_of_it_speaks_mutual_tls(site: Site, control: str) -> None:
    edge, addresses = site.edge(control)
    shop: Running | None = None
    try:
        internal = addresses["internal"]
        register = (
            "register",
            "inventory",
            ANY,
            "--control",
            internal,
            "--grpc-service",
            "shop.v1.Inventory",
            "--public",
        )
        serve = ("--", sys.executable, "-m", "examples.shop", "inventory", "--alone", "--listen", "{address}")
        shop = Running.start(site.folder, *register, *serve, env=site.env)

        def services() -> str:
            return mesh("services", "--control", internal, env=site.env).stdout

        eventually(lambda: "inventory" in services(), "registered, through the edge")
        said = services()
        assert "mesh-control" in said
        assert f"at {internal}: engine" in said, said
        with grpc.insecure_channel(addresses["public"]) as channel:
            inventory = InventoryStub(channel)
            request = ListStockRequest()
            assert eventually(lambda: inventory.ListStock(request, timeout=PATIENCE), "called through the edge")

        direct = mesh("services", "--control", control, env=site.env)
        assert "inventory" in direct.stdout, direct.stderr
        stranger = Authority("another").sign("stranger").write(site.folder, "stranger")
        for env in ({}, {"MESH_CA": site.ca}, {**site.env, "MESH_CERT": stranger[0], "MESH_KEY": stranger[1]}):
            for address in (control, internal):
                refused = mesh("services", "--control", address, env=env)
                assert refused.returncode == 1
                assert refused.stderr.count("\n") == 1, refused.stderr
        broken = mesh("services", "--control", control, env={"MESH_CA": str(site.folder / "none.crt")})
        assert (broken.returncode, broken.stderr.count("\n")) == (1, 1)
        assert "cannot read" in broken.stderr
    finally:
        if shop is not None:
            assert shop.stop() == 0, shop.stderr
        assert edge.stop() == 0, edge.stderr


def test_a_renewed_certificate_of_the_control_process_is_shown(site: Site, control: str) -> None:
    import ssl

    host, _, port = control.rpartition(":")

    def shown() -> str:
        return ssl.get_server_certificate((host, int(port)))

    before = shown()
    site.sign("server", days=9)
    eventually(lambda: shown() != before, "the new one is shown")
    listed = mesh("services", "--control", control, env=site.env)
    assert "mesh-control" in listed.stdout, listed.stderr
