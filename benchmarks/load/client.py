"""The native load client: see native/load.c for what its modes do."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import tools

# More than this part of failed calls makes a measurement worthless.
_TOLERATED = 0.001
_TIMEOUT = 1200.0


class LoadError(Exception):
    """Calls failed, or the load could not be made."""


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load. `mode` and the rest are the options of the native client."""

    mode: str = "closed"
    connections: int = 1
    streams: int = 1
    size: int = 64
    reply: int = 0
    replies: int = 0
    window: int = 8
    rate: float = 0
    varied: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a load."""

    calls: int
    seconds: float
    megabytes: float
    p50_us: float = 0
    p99_us: float = 0

    @property
    def calls_per_second(self) -> float:
        return self.calls / self.seconds

    @property
    def megabytes_per_second(self) -> float:
        return self.megabytes / self.seconds


def run(load: Load, port: int, *, seconds: float = 1, calls: int = 0, seed: int = 1) -> Done:
    """Make `load` on `port` for so many seconds, or until so many calls have been begun.

    Raises:
        LoadError: calls failed.

    """
    limit = _TIMEOUT if not calls else _TIMEOUT * 3
    done = subprocess.run(_command(load, port, seconds, calls, seed), capture_output=True, timeout=limit, check=False)
    said = done.stderr.decode().strip()
    if not done.stdout:
        raise LoadError(said or f"the load client ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    bad = result["failed"] + result["unfinished"]
    if done.returncode or not result["calls"] or bad > _TOLERATED * result["calls"]:
        raise LoadError(
            f"{result['failed']} calls failed (first: {result['first_failure']}), {result['unfinished']} did not end, "
            f"{result['calls']} were well. {said}"
        )
    return Done(
        calls=result["calls"],
        seconds=result["seconds"],
        megabytes=(result["bytes_in"] + result["bytes_out"]) / 1e6,
        p50_us=result["p50_us"],
        p99_us=result["p99_us"],
    )


@contextlib.contextmanager
def held(port: int, connections: int, streams: int = 0) -> Iterator[None]:
    """Hold connections, and streams spread over them that have begun and say nothing, while the context is open.

    Raises:
        LoadError: they did not come about.

    """
    command = _command(Load("idle", connections, streams), port, 1, 0, 1)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline().strip() != b"ready":
                raise LoadError(f"{connections} connections with {streams} streams did not come about")
            yield
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _command(load: Load, port: int, seconds: float, calls: int, seed: int) -> list[str]:
    values = {
        "mode": load.mode,
        "port": port,
        "connections": load.connections,
        "streams": load.streams,
        "seconds": seconds,
        "calls": calls,
        "rate": load.rate,
        "size": load.size,
        "reply": load.reply,
        "replies": load.replies,
        "window": load.window,
        "varied": int(load.varied),
        "seed": seed,
    }
    return [str(tools.build("load")), *(part for name, value in values.items() for part in (f"--{name}", str(value)))]
