"""Our own edge as users start it: `mesh control`, registered endpoints, `mesh edge` with all that is on by default."""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc

from benchmarks import processes, tools
from benchmarks.load import certificate
from benchmarks.load.backends import GRPC_SERVICE
from benchmarks.peers.peer import Running, Site
from mesh.api.registry.v1 import EXPOSURE_PUBLIC, HEALTH_SERVING, Instance, RegisterRequest, RegistryStub
from proxy.options import ENGINES

_ANY_PORT = "127.0.0.1:0"
# Longer than any run: nobody renews the lease.
_TTL = 3600.0


class Edge:
    """The edge with one of its engines, following one control process."""

    def __init__(self, engine: str, control: str, python: str, *, interpreted: bool = False) -> None:
        """Make it; `python` is the interpreter that runs it, with the packages of this one.

        It runs as pip installs it, its data path compiled, unless it is to be `interpreted`.
        """
        self.name = f"edge-{engine}-interpreted" if interpreted else f"edge-{engine}"
        # The other engine is there for its third-party interceptors, not for speed.
        self.main = engine == "wire" and not interpreted
        self._engine = engine
        self._tree = tools.ROOT if interpreted else tools.COMPILED
        self._control = control
        self._python = python

    def missing(self) -> str:
        return "" if (self._tree / "proxy").is_dir() else "the compiled package is not built: make compiled"

    def start(self, site: Site) -> Running:
        command = [self._python, "-P", "-m", "mesh.cli", "edge", "--control", self._control, "--engine", self._engine]
        command += ["--public", _ANY_PORT, "--internal", _ANY_PORT, "--admin", _ANY_PORT]
        command += ["--access-log", str(site.folder / "access.log")]
        if site.workers > 1:
            command += ["--workers", str(site.workers)]
        if site.tls:
            cert, key = certificate.write(site.folder)
            command += ["--public-tls-cert", str(cert), "--public-tls-key", str(key)]
        started, addresses = processes.start_part(
            self.name, command, site.folder / "output.log", _environment(self._tree)
        )
        return Running(started, int(addresses["public"].rpartition(":")[2]), site.folder)


def engines() -> list[str]:
    """Return the engines that this version has."""
    return [engine for engine in ENGINES if engine != "auto"]


@contextlib.contextmanager
def control(folder: Path, endpoints: Sequence[int]) -> Iterator[str]:
    """Run a control process with the endpoints registered; yields its address."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "mesh.cli",
        "control",
        "--listen",
        _ANY_PORT,
        "--data-dir",
        str(folder / "control"),
    ]
    started, addresses = processes.start_part("control", command, folder / "control.log", _environment(tools.ROOT))
    with processes.running(started):
        _register(addresses["control"], endpoints)
        yield addresses["control"]


def _environment(tree: Path) -> dict[str, str]:
    """Return the environment in which any Python of this version finds a tree's code and our packages."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), sysconfig.get_path("platlib")))}


def _register(address: str, endpoints: Sequence[int]) -> None:
    """Register the endpoints as public instances of one service."""
    with grpc.insecure_channel(address) as channel:
        registry = RegistryStub(channel)
        for number, port in enumerate(endpoints):
            instance = Instance(
                service="bench",
                instance_id=f"bench-{number}",
                endpoints=[f"127.0.0.1:{port}"],
                grpc_services=[GRPC_SERVICE],
                exposure=EXPOSURE_PUBLIC,
                health=HEALTH_SERVING,
                # It has no reflection to tell it by.
                metadata={"unary-methods": f"{GRPC_SERVICE}/Get"},
            )
            registry.Register(RegisterRequest(instance=instance, ttl_seconds=_TTL), timeout=10)
