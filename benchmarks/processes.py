"""Programs that are started, measured and stopped; never any others."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

START_SECONDS = 30.0
STOP_SECONDS = 15.0

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") / 1024
# Fields of /proc/PID/stat after the command's name, which may hold anything: utime is the 14th of all.
_UTIME = 14 - 3


class FailedToStartError(Exception):
    """A program ended, or did not listen in time."""


@dataclass(frozen=True, slots=True)
class Started:
    """A program that runs, with the processes it started."""

    name: str
    process: subprocess.Popen[bytes]

    def pids(self) -> list[int]:
        """Return the processes of the program: itself and all below it."""
        pid = self.process.pid
        with contextlib.suppress(psutil.NoSuchProcess):
            return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        return [pid]

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used, in user space and in the kernel, all threads."""
        return sum(_cpu_seconds(pid) for pid in self.pids())

    def resident_kib(self) -> float:
        """Return its resident memory; pages that its processes share count once for each."""
        return sum(int(_proc(pid, "statm").split()[1]) * _PAGE_KIB for pid in self.pids())

    def stop(self) -> None:
        """End it: politely, then by force."""
        if self.process.poll() is not None:
            return
        below = self.pids()[1:]
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).ppid() == 1:  # left behind by the one that we ended
                    psutil.Process(pid).kill()


def start(name: str, command: Sequence[str], log: Path, **options: Any) -> Started:
    """Start a program whose output goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)
    return Started(name, process)


def start_listening(name: str, command: Sequence[str], log: Path, port: int, **options: Any) -> Started:
    """Start a program and wait until it takes connections at `port`; raises FailedToStartError."""
    started = start(name, command, log, **options)
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and started.process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return started
        time.sleep(0.05)
    raise _failed(started, log)


def start_part(
    name: str, command: Sequence[str], log: Path, env: Mapping[str, str]
) -> tuple[Started, Mapping[str, str]]:
    """Start a part of the mesh and return its addresses once it is ready; raises FailedToStartError."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        try:
            started = start(name, [*command, "--ready-fd", str(writing)], log, pass_fds=(writing,), env=env)
        finally:
            os.close(writing)
        line = pipe.readline() if select.select([pipe], [], [], START_SECONDS)[0] else b""
    if not line:
        raise _failed(started, log)
    return started, json.loads(line)


class Others:
    """Tells what part of the machine's processors programs that are not ours take, the host's other guests included."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._busy, self._ours = _busy_seconds(), _our_seconds()

    def share(self) -> float:
        """Return it, from when this was made until now, 1 being all processors."""
        taken = (_busy_seconds() - self._busy) - (_our_seconds() - self._ours)
        return max(0.0, taken / (time.monotonic() - self._at) / (os.cpu_count() or 1))


@contextlib.contextmanager
def running(started: Started) -> Iterator[Started]:
    """Stop a program at the end of the context."""
    try:
        yield started
    finally:
        started.stop()


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _failed(started: Started, log: Path) -> FailedToStartError:
    started.stop()
    said = log.read_text(errors="replace").strip().splitlines()[-5:]
    return FailedToStartError(f"{started.name} did not start: " + " | ".join(said))


def _busy_seconds() -> float:
    """Return the time that all processors have been busy, or were taken away by the host."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _our_seconds() -> float:
    """Return the time that this process has used, with those below it that live and those that ended."""
    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(OSError, IndexError):
            total += _cpu_seconds(child.pid)
    return total


def _cpu_seconds(pid: int) -> float:
    fields = _proc(pid, "stat").rpartition(")")[2].split()
    return sum(int(field) for field in fields[_UTIME : _UTIME + 2]) / _TICKS


def _proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
