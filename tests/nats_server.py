"""The real NATS server, with JetStream, on a port that the system picks."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

BINARY = Path(sys.executable).parent / "nats-server"
# Generous: the machine may be busy, and a hang fails by pytest's own timeout.
PATIENCE = 60.0


@contextlib.contextmanager
def nats_server(folder: Path) -> Iterator[str]:
    """Run it with its data in `folder`; gives its URL."""
    command = [str(BINARY), "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", str(folder / "jetstream")]
    with (folder / "nats.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--ports_file_dir", str(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield _url(folder / f"nats-server_{process.pid}.ports", process)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _url(ports: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(ports.read_text())["nats"][0])
        time.sleep(0.02)
    raise AssertionError(f"nats-server does not serve: {(ports.parent / 'nats.log').read_text()}")
