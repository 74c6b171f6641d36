"""The edge over TLS: grpcurl as its client, certificates that change, workers that are replaced."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from examples.shop.api.v1 import ListProductsRequest, StorefrontStub
from tests.certificates import Authority, Pair
from tests.e2e.harness import BIN, PATIENCE, RunningMesh, channel, eventually, mesh, running_mesh
from tests.e2e.test_workers import Load, answer, scrape

# One mesh of each engine for all of them.
pytestmark = pytest.mark.xdist_group("tls")

LOCAL = "127.0.0.1"
LIST_PRODUCTS = "shop.v1.Storefront/ListProducts"


def grpcurl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real grpcurl, over TLS."""
    return subprocess.run(
        [BIN / "grpcurl", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def config(folder: Path, cert: str, key: str, *more: str) -> str:
    path = folder / "edge.toml"
    path.write_text("\n".join(("[public_tls]", f'cert = "{cert}"', f'key = "{key}"', *more)))
    return str(path)


class SecureLoad(Load):
    """Clients of the public listener."""

    def __init__(self, address: str, ca: bytes) -> None:
        super().__init__(address, keeping=2, connecting=2)
        self._credentials = grpc.ssl_channel_credentials(ca)

    def _channel(self) -> grpc.Channel:
        options = (("grpc.use_local_subchannel_pool", 1),)
        return grpc.secure_channel(self.address, self._credentials, options=options)

    def _once(self, opened: grpc.Channel) -> None:
        StorefrontStub(opened).ListProducts(ListProductsRequest(), timeout=PATIENCE)


@dataclass
class Secured:
    """A shop behind an edge of two workers that speaks TLS, and its certificates."""

    mesh: RunningMesh
    folder: Path
    authority: Authority
    shown: Pair
    ca: str


@pytest.fixture(scope="module", params=["wire", "aio"])
def secured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder, authority = tmp_path_factory.mktemp("secured"), Authority()
    shown = authority.sign(names=(LOCAL,))
    options = config(folder, *shown.write(folder, "edge"))
    with running_mesh(folder, "--engine", request.param, "--workers", "2", "--config", options, demo=True) as running:
        yield Secured(running, folder, authority, shown, authority.write(folder, "ca"))


@pytest.mark.parametrize("secured", ["wire"], indirect=True)
def test_a_rolling_restart_over_tls_loses_no_call(secured: Secured) -> None:
    running = secured.mesh
    with SecureLoad(running.public, secured.authority.pem).running() as load:
        eventually(lambda: load.done > 50, "the load runs")
        os.kill(running.pid("edge"), signal.SIGHUP)
        eventually(lambda: "all workers are replaced" in running.log("edge"), "the workers are replaced")
        seen = load.done
        eventually(lambda: load.done > seen + 50, "the load goes on")
    assert load.failures == []
    assert answer(running.admin, "readyz") == (200, "ready")


def test_grpcurl_talks_to_the_edge_and_certificates_are_followed(secured: Secured) -> None:
    first, second = secured.shown, secured.authority.sign(names=(LOCAL,), days=9)
    running, ca = secured.mesh, secured.ca

    def ends() -> list[tuple[dict[str, str], float]]:
        return scrape(running.admin)["mesh_edge_tls_not_after_seconds"]

    listed = grpcurl("-cacert", ca, running.public, "list")
    assert "shop.v1.Storefront" in listed.stdout.split(), listed.stderr
    assert "tea" in grpcurl("-cacert", ca, "-d", "{}", running.public, LIST_PRODUCTS).stdout
    # Without TLS, for which it would try for ten seconds; and trusting only the system's authorities.
    for wrong in (("-plaintext", "-connect-timeout", "2"), ()):
        assert grpcurl(*wrong, running.public, "list").returncode != 0
    assert ends() == [({"of": "public"}, first.not_after)]

    with channel(running.internal) as opened:  # plaintext, as no option says otherwise
        assert StorefrontStub(opened).ListProducts(ListProductsRequest(), timeout=PATIENCE).products

    cert, _ = second.write(secured.folder, "edge")
    eventually(lambda: ends() == [({"of": "public"}, second.not_after)], "the new certificate is in force")
    assert grpcurl("-cacert", ca, "-d", "{}", running.public, LIST_PRODUCTS).returncode == 0

    Path(cert).write_text("broken")

    def failures() -> float:
        return sum(
            value
            for labels, value in scrape(running.admin)["mesh_edge_tls_reload_failures_total"]
            if labels["of"] == "public"
        )

    eventually(lambda: failures() == 2, "both workers tell of the broken file")
    assert grpcurl("-cacert", ca, "-d", "{}", running.public, LIST_PRODUCTS).returncode == 0
    assert ends() == [({"of": "public"}, second.not_after)]
    eventually(lambda: "the last good files of public stay in force" in running.log("edge"), "it is logged")


def test_clients_show_certificates(tmp_path: Path) -> None:
    authority, clients = Authority(), Authority("clients")
    cert, key = authority.sign(names=(LOCAL,)).write(tmp_path, "edge")
    own_cert, own_key = clients.sign("orders").write(tmp_path, "own")
    ca, client_ca = authority.write(tmp_path, "ca"), clients.write(tmp_path, "clients")
    options = config(tmp_path, cert, key, f'client_ca = "{client_ca}"')
    with running_mesh(tmp_path, "--engine", "wire", "--config", options, demo=True) as running:
        assert grpcurl("-cacert", ca, running.public, "list").returncode != 0
        shown = ("-cert", own_cert, "-key", own_key)
        assert "shop.v1.Storefront" in grpcurl("-cacert", ca, *shown, running.public, "list").stdout


@pytest.mark.parametrize("workers", ["1", "2"])
def test_files_that_cannot_be_used_are_one_clear_line(tmp_path: Path, workers: str) -> None:
    authority = Authority()
    cert, _ = authority.sign().write(tmp_path, "one")
    _, other_key = authority.sign().write(tmp_path, "other")
    addresses = ("--public", "127.0.0.1:0", "--internal", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    for files, code, said in (
        (("--public-tls-cert", cert, "--public-tls-key", other_key), 1, "are not a certificate and its key"),
        (("--public-tls-cert", cert, "--public-tls-key", "/none"), 1, "TLS: cannot read the key /none: No such file"),
        (("--internal-tls-cert", cert), 2, "TLS needs both files: a certificate and its key"),
    ):
        ended = mesh("edge", "--control", "127.0.0.1:1", "--workers", workers, *addresses, *files)
        assert ended.returncode == code
        (line,) = ended.stderr.splitlines()
        assert line.startswith("mesh: ")
        assert said in line


def test_mesh_up_keeps_its_own_listener_plain(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text('[internal_tls]\ncert = "a"\nkey = "b"\n')
    ended = mesh("up", "--data-dir", str(tmp_path / "data"), "--config", str(path))
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "the internal listener cannot speak TLS" in ended.stderr
