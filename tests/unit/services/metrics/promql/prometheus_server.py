"""A real Prometheus for a test: started on a free port, filled by remote write, asked over HTTP."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.unit.services.metrics.promql.dataset import STALE, Series

_STALE_BITS = 0x7FF0000000000002


def installed() -> str | None:
    return shutil.which("prometheus")


class Prometheus:
    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, **parameters: Any) -> dict[str, Any]:
        """POST a form to the API and return its JSON, errors included."""
        body = urllib.parse.urlencode(parameters).encode()
        request = urllib.request.Request(f"http://{self.address}/api/v1/{path}", data=body)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as error:
            answer = json.load(error)
        assert isinstance(answer, dict)
        return answer

    def version(self) -> str:
        with urllib.request.urlopen(f"http://{self.address}/api/v1/status/buildinfo", timeout=30) as reply:
            return str(json.load(reply)["data"]["version"])

    def write(self, series: Sequence[Series], *, slice_ms: int = 600_000) -> None:
        """Store the series: slice after slice, since what is old is refused."""
        first = min(times[0] for _, times, _ in series)
        last = max(times[-1] for _, times, _ in series)
        for start in range(first, last + 1, slice_ms):
            body = b"".join(
                _field(1, _series(labels, inside))
                for labels, times, values in series
                if (inside := [pair for pair in zip(times, values, strict=True) if start <= pair[0] < start + slice_ms])
            )
            request = urllib.request.Request(f"http://{self.address}/api/v1/write", data=_snappy(body))
            request.add_header("content-encoding", "snappy")
            request.add_header("content-type", "application/x-protobuf")
            with urllib.request.urlopen(request, timeout=60):
                pass


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus with its data in `folder` while the block runs."""
    binary = installed()
    assert binary is not None
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    config = folder / "prometheus.yml"
    config.write_text("{}\n")
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
                "--web.enable-remote-write-receiver",
                "--storage.tsdb.retention.time=100y",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        _until_ready(address, process)
        yield Prometheus(address)
    finally:
        process.terminate()
        process.wait(30)


def _until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "Prometheus ended"
        assert time.monotonic() < deadline, "Prometheus does not become ready"
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
            return
        time.sleep(0.05)


def _series(labels: dict[str, str], samples: list[tuple[int, Any]]) -> bytes:
    named = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in sorted(labels.items())
    )
    return named + b"".join(_field(2, b"\x09" + _double(value) + b"\x10" + _varint(ts)) for ts, value in samples)


def _double(value: Any) -> bytes:
    return struct.pack("<Q", _STALE_BITS) if value == STALE else struct.pack("<d", value)


def _field(number: int, body: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _snappy(body: bytes) -> bytes:
    """Return the body as snappy's block format has it, as literals alone."""
    out = bytearray(_varint(len(body)))
    for start in range(0, len(body), 65536):
        piece = body[start : start + 65536]
        out += b"\xf4" + struct.pack("<H", len(piece) - 1) + piece
    return bytes(out)
