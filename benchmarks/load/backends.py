"""The endpoints behind every proxy: native servers that cost a few microseconds a call (native/backend.c)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import processes, tools

ENDPOINTS = 3
GRPC_SERVICE = "bench.v1.Bench"


@contextlib.contextmanager
def backends(folder: Path) -> Iterator[Sequence[int]]:
    """Run the endpoints; yields their ports."""
    program = str(tools.build("backend"))
    with contextlib.ExitStack() as stack:
        ports = []
        for number in range(ENDPOINTS):
            port = processes.free_port()
            log = folder / f"backend-{number}.log"
            started = processes.start_listening(f"backend {number}", [program, str(port)], log, port)
            stack.enter_context(processes.running(started))
            ports.append(port)
        yield ports
