"""Our own edge as users start it: `mesh control`, registered endpoints, `mesh edge` with all that is on by default."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc

from benchmarks import processes, tools
from benchmarks.load.backends import GRPC_SERVICE
from benchmarks.peers.peer import Running, Site
from mesh.api.registry.v1 import EXPOSURE_PUBLIC, HEALTH_SERVING, Instance, RegisterRequest, RegistryStub
from proxy.options import ENGINES, EdgeOptions

_MESH = str(tools.VENV_BIN / "mesh")
_ANY_PORT = "127.0.0.1:0"
# Longer than any run: nobody renews the lease.
_TTL = 3600.0

HAS_WORKERS = any(field.name == "workers" for field in dataclasses.fields(EdgeOptions))


class Edge:
    """The edge with one of its engines, following one control process."""

    main = True

    def __init__(self, engine: str, control: str) -> None:
        self.name = f"edge-{engine}"
        self._engine = engine
        self._control = control

    def missing(self) -> str:
        return ""

    def start(self, site: Site) -> Running:
        command = [_MESH, "edge", "--control", self._control, "--engine", self._engine]
        command += ["--public", _ANY_PORT, "--internal", _ANY_PORT, "--admin", _ANY_PORT]
        command += ["--access-log", str(site.folder / "access.log")]
        if site.workers > 1:
            if not HAS_WORKERS:
                raise processes.FailedToStartError(f"{self.name} has no --workers")
            command += ["--workers", str(site.workers)]
        started, addresses = processes.start_part(self.name, command, site.folder / "output.log")
        return Running(started, int(addresses["public"].rpartition(":")[2]))


def engines() -> list[str]:
    """Return the engines that this version has."""
    return [engine for engine in ENGINES if engine != "auto"]


@contextlib.contextmanager
def control(folder: Path, endpoints: Sequence[int]) -> Iterator[str]:
    """Run a control process with the endpoints registered; yields its address."""
    command = [_MESH, "control", "--listen", _ANY_PORT, "--data-dir", str(folder / "control")]
    started, addresses = processes.start_part("control", command, folder / "control.log")
    with processes.running(started):
        _register(addresses["control"], endpoints)
        yield addresses["control"]


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
            )
            registry.Register(RegisterRequest(instance=instance, ttl_seconds=_TTL), timeout=10)
