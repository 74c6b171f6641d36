"""Starts the real `mesh` and drives it from outside, as its users do."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import psutil

from mesh.api.registry.v1 import Instance, ListRequest, RegistryStub
from tests.e2e.preloaded import Preloaded

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# Generous: the machine may be busy, and a hang fails by pytest's own timeout.
PATIENCE = 60.0
# Every process of one test's mesh, however it came to be, has this in its environment.
MARK = "MESH_E2E_MARK"
ANY_PORTS = ("--public", "127.0.0.1:0", "--internal", "127.0.0.1:0", "--admin", "127.0.0.1:0")

T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str = "") -> T:
    """Return the first true value of `condition`, which may raise RpcError until then."""
    deadline = time.monotonic() + PATIENCE
    while True:
        asked = time.monotonic()
        with contextlib.suppress(grpc.RpcError):
            value = condition()
            if value:
                return value
        now = time.monotonic()
        assert now < deadline, f"still not: {what or condition}"
        # What is waited for needs the processor too: no more than half of it goes into asking.
        time.sleep(max(0.02, now - asked))


def environment(mark: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process that `left_over` finds."""
    clean = {name: value for name, value in os.environ.items() if name not in ("MESH_CONTROL", "XDG_DATA_HOME")}
    return {**clean, MARK: mark, "NO_COLOR": "1", "COLUMNS": "200", **(extra or {})}


def left_over(mark: str) -> list[psutil.Process]:
    """Return the live processes that carry `mark`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@functools.cache
def _preloaded() -> Preloaded:
    made = Preloaded(environment("preloaded"))
    atexit.register(made.close)
    return made


def mesh(*arguments: str, mark: str = "", env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a `mesh` command to its end."""
    return _preloaded().run(arguments, environment(mark or uuid.uuid4().hex, env), PATIENCE)


def grpcurl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real grpcurl, in plaintext."""
    return subprocess.run(
        [BIN / "grpcurl", "-plaintext", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@dataclass
class Running:
    """A `mesh` command that goes on until it is stopped."""

    process: subprocess.Popen[str]
    mark: str
    stderr_path: Path
    # What it prints, line by line; "" is the end.
    _printed: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._printed.put(line)
        self._printed.put("")

    @classmethod
    def start(
        cls,
        folder: Path,
        *arguments: str,
        mark: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Self:
        """Start it; what it says on standard error goes to a file in `folder`."""
        mark = mark or uuid.uuid4().hex
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"stderr-{uuid.uuid4().hex[:8]}.txt"
        with path.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "mesh.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment(mark, env),
                cwd=cwd or ROOT,
            )
        return cls(process, mark, path)

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()

    def next_line(self) -> str:
        """Return the next line that it prints; the first one says that it is ready."""
        try:
            line = self._printed.get(timeout=PATIENCE)
        except queue.Empty:
            line = ""
        if not line:
            code = self.process.poll()
            raise AssertionError(
                f"it says nothing more ({'it runs' if code is None else f'exit {code}'}): {self.stderr}"
            )
        return line

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, wait until it has, and see that nothing is left of it; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait until it has ended by itself, and see that nothing is left of it; returns its exit code."""
        try:
            code = self.process.wait(PATIENCE)
            left = [(process.pid, process.cmdline()) for process in left_over(self.mark)]
            assert left == [], f"left over: {left}"
            return code
        finally:
            self.kill()

    def kill(self) -> None:
        """End it and all that it started, now."""
        for process in left_over(self.mark):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)


@dataclass
class RunningMesh(Running):
    """`mesh up --json`; `summary` is what it prints when it is ready."""

    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def public(self) -> str:
        return str(self.summary["public"])

    @property
    def internal(self) -> str:
        return str(self.summary["internal"])

    @property
    def admin(self) -> str:
        return str(self.summary["admin"])

    @property
    def control(self) -> str:
        return str(self.summary["control"])

    def pid(self, part: str) -> int:
        """Return the process of a part as it was when all was ready."""
        return next(int(known["pid"]) for known in self.summary["parts"] if known["name"] == part)

    def log(self, part: str) -> str:
        """Return what a part has said."""
        return next(Path(known["log"]).read_text() for known in self.summary["parts"] if known["name"] == part)

    def mesh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `mesh` command that asks this mesh."""
        return mesh(*arguments, "--control", self.internal)


def start_mesh(
    folder: Path, *arguments: str, demo: bool = False, listeners: tuple[str, ...] = ANY_PORTS
) -> RunningMesh:
    """Start a mesh on a data folder below `folder` and wait until it is ready."""
    options = ("--data-dir", str(folder / "data"), "--json", *listeners, *(("--demo",) if demo else ()), *arguments)
    started = RunningMesh.start(folder, "up", *options)
    try:
        started.summary = json.loads(started.next_line())
    except BaseException:
        started.kill()
        raise
    return started


@contextlib.contextmanager
def running_mesh(folder: Path, *arguments: str, demo: bool = False) -> Iterator[RunningMesh]:
    """Run a mesh while the block runs; at its end it must stop cleanly and leave nothing."""
    started = start_mesh(folder, *arguments, demo=demo)
    try:
        yield started
    except BaseException:
        logs = (f"{log.name}: {log.read_text()}" for log in sorted((folder / "data" / "logs").iterdir()))
        sys.stderr.write("\n".join((started.stderr, *logs)))
        started.kill()
        raise
    assert started.stop() == 0, started.stderr


@contextlib.contextmanager
def channel(address: str) -> Iterator[grpc.Channel]:
    """Give a channel of its own: no connection, and no backoff, is shared with other tests."""
    with grpc.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as opened:
        yield opened


def instances(control: str, service: str = "") -> dict[str, Instance]:
    """Return what the registry has, by instance id."""
    with channel(control) as opened:
        listed = RegistryStub(opened).List(ListRequest(service=service), timeout=PATIENCE)
    return {instance.instance_id: instance for instance in listed.instances}
