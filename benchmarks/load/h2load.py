"""h2load: a load client that is not ours, to see that ours does not favour anybody."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from benchmarks import tools
from benchmarks.load.client import Done, LoadError

_HEADERS = (
    "te: trailers",
    "content-type: application/grpc",
    "user-agent: grpc-bench/1.0 (linux; h2load)",
    "grpc-accept-encoding: identity, deflate, gzip",
)
_FINISHED = re.compile(r"finished in ([\d.]+)(ms|s), ([\d.]+) req/s")
_REQUESTS = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_MESSAGE = b"\x00" + (64).to_bytes(4) + bytes(64)


def run(port: int, *, connections: int, streams: int, calls: int, folder: Path) -> Done:
    """Make so many unary calls, `connections` x `streams` at a time, whose headers are all the same.

    Raises:
        LoadError: calls failed.

    """
    body = folder / "message"
    body.write_bytes(_MESSAGE)
    command = [tools.path_of("h2load"), f"-n{calls}", f"-c{connections}", f"-m{streams}", "-d", str(body)]
    for header in _HEADERS:
        command += ["-H", header]
    command.append(f"http://127.0.0.1:{port}/bench.v1.Bench/Get")
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600).stdout
    finished, requests = _FINISHED.search(said), _REQUESTS.search(said)
    if finished is None or requests is None or any(int(count) for count in requests.groups()[1:]):
        raise LoadError(f"h2load: {said.strip()[-400:]}")
    seconds = float(finished[1]) / (1000 if finished[2] == "ms" else 1)
    done = int(requests[1])
    return Done(done, seconds, 2 * done * len(_MESSAGE) / 1e6)
