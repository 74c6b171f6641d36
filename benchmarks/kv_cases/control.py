"""A control process to measure from outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def control() -> Iterator[tuple[str, psutil.Process]]:
    """Run one on SQLite while the block runs; gives its address and the process."""
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        # What is measured is the registry: logs and metrics take time and memory of their own.
        command = [sys.executable, "-m", "services", "--data-dir", folder, "--ready-fd", str(writer)]
        command += ["--telemetry-store", "off"]
        process = subprocess.Popen(command, cwd=ROOT, pass_fds=(writer,), stdin=subprocess.DEVNULL)
        os.close(writer)
        try:
            with os.fdopen(reader) as pipe:
                address = json.loads(pipe.readline())["control"]
            yield address, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


def mib(process: psutil.Process) -> float:
    """Return the memory of a process that it shares with no other, in MiB."""
    return float(process.memory_full_info().uss) / (1 << 20)
