"""h2load: a load client that is not ours, to see that ours does not favour anybody, and the one that speaks TLS."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from benchmarks import tools
from benchmarks.load.certificate import CIPHER
from benchmarks.load.client import Done, LoadError

_HEADERS = (
    "te: trailers",
    "content-type: application/grpc",
    "user-agent: grpc-bench/1.0 (linux; h2load)",
    "grpc-accept-encoding: identity, deflate, gzip",
)
_FINISHED = re.compile(r"finished in ([\d.]+)(us|ms|s), ([\d.]+) req/s")
_REQUESTS = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_TLS = re.compile(r"TLS Protocol: (\S+)\s+Cipher: (\S+)")
_DATA = re.compile(r"traffic: .* (\S+) \((\d+)\) data")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_MESSAGE = b"\x00" + (64).to_bytes(4) + bytes(64)
# It takes a number of calls: those for a time follow from how many a second there were last, at first of so many.
_PROBE_CALLS = 2000

_rates: dict[tuple[int, int, int], float] = {}


def run(port: int, *, connections: int, streams: int, seconds: float, folder: Path, tls: bool = False) -> Done:
    """Make unary calls for about so long, `connections` x `streams` at a time, whose headers are all the same.

    With `tls` by TLS 1.3, each connection with a whole handshake: h2load resumes no sessions.

    Raises:
        LoadError: calls failed, or another protocol or cipher than the one for all peers came about.

    """
    key = (port, connections, streams)
    if key not in _rates:
        _rates[key] = _run(port, connections, streams, _PROBE_CALLS, folder, tls=tls).calls_per_second
    calls = max(_PROBE_CALLS, int(_rates[key] * seconds))
    done = _run(port, connections, streams, calls, folder, tls=tls)
    _rates[key] = done.calls_per_second
    return done


def _run(port: int, connections: int, streams: int, calls: int, folder: Path, *, tls: bool) -> Done:
    body = folder / "message"
    body.write_bytes(_MESSAGE)
    command = [tools.path_of("h2load"), f"-n{calls}", f"-c{connections}", f"-m{streams}", "-d", str(body)]
    for header in _HEADERS:
        command += ["-H", header]
    if tls:
        command += [f"--tls13-ciphers={CIPHER}", "--npn-list=h2"]
    command.append(f"{'https' if tls else 'http'}://127.0.0.1:{port}/bench.v1.Bench/Get")
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600).stdout
    finished, requests = _FINISHED.search(said), _REQUESTS.search(said)
    if finished is None or requests is None or any(int(count) for count in requests.groups()[1:]):
        raise LoadError(f"h2load: {said.strip()[-400:]}")
    spoken = _TLS.search(said)
    if tls and (spoken is None or spoken.groups() != ("TLSv1.3", CIPHER)):
        raise LoadError(f"h2load: {spoken.groups() if spoken else 'no TLS'} instead of TLS 1.3 with {CIPHER}")
    done = int(requests[1])
    # It takes every answer for a success, a refusal by gRPC too: only a reply that was served carries a message.
    data = _DATA.search(said)
    if data is None or int(data[2]) != done * len(_MESSAGE):
        raise LoadError(f"h2load: not every call was served: {data[2] if data else 0} bytes of {done} replies")
    return Done(done, float(finished[1]) * _UNITS[finished[2]], 2 * done * len(_MESSAGE) / 1e6)
