"""What a unary call by `m.channel` costs its client, beside one by a bare grpc.aio channel: CPU of the process.

`python -m benchmarks.sdk`: server and control plane run in processes of their own; both kinds of calls are made in
alternation, with some in flight at a time, and the medians of their CPU times are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

import mesh
from mesh.telemetry.sampling import TracingOptions

ROOT = Path(__file__).resolve().parents[1]
METHOD = "/bench.v1.Bench/Get"
MESSAGE = b"x" * 100
TIMEOUT = 30.0


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


def add_bench(_servicer: object, server: Any) -> None:
    """Do what generated code does."""
    handlers: dict[str, Any] = {"Get": grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.v1.Bench", handlers),))


async def serve(control: str) -> None:
    """Run the server: it registers, and says where it is."""
    async with mesh.join("bench", control=control, tracing=TracingOptions(sample=0.0)) as m:
        m.add(add_bench, None)
        await m.start()
        await m.registered()
        print(m.address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[str]:
    """Run a process of this mesh; yields the first line that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            yield running.stdout.readline().strip()
        finally:
            running.stdin.close()
            running.terminate()


async def seconds(call: Callable[[], Awaitable[Any]], options: argparse.Namespace) -> float:
    """Return the CPU seconds that this process spends on so many calls."""
    left = options.calls

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    began = time.process_time()
    await asyncio.gather(*(work() for _ in range(options.in_flight)))
    return time.process_time() - began


async def compare(control: str, address: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return microseconds of CPU a call by what made it, one figure a round."""
    found: dict[str, list[float]] = {}
    async with (
        mesh.join("client", control=control, tracing=TracingOptions(sample=0.0)) as plain,
        mesh.join("client", control=control) as traced,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stubs: dict[str, Any] = {
            "bare": channel.unary_unary(METHOD),
            "mesh": plain.channel("bench").unary_unary(METHOD),
            "mesh, every call traced": traced.channel("bench").unary_unary(METHOD),
        }
        for number in range(-1, options.rounds):
            for name, stub in stubs.items():
                spent = await seconds(functools.partial(stub, MESSAGE, timeout=TIMEOUT), options)
                if number >= 0:  # the round before is to warm up
                    found.setdefault(name, []).append(spent / options.calls * 1e6)
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sdk", description=__doc__)
    parser.add_argument("--calls", type=int, default=5_000, help="of one kind in a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--serve", metavar="CONTROL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        control_plane(Path(folder)) as control,
        process("-m", "benchmarks.sdk", "--serve", control) as address,
    ):
        found = asyncio.run(compare(control, address, options))
    bare = statistics.median(found["bare"])
    print(f"{'CPU of the client, a unary call':32}  {'µs':>7}  {'x bare':>6}   lowest-highest µs")
    for name, figures in found.items():
        middle = statistics.median(figures)
        print(f"{name:32}  {middle:7.1f}  {middle / bare:6.2f}   {min(figures):.1f}-{max(figures):.1f}")


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[str]:
    """Run a control plane; yields its address."""
    with process("-m", "mesh.cli", "control", "--listen", "127.0.0.1:0", "--data-dir", str(folder), "--json") as line:
        yield str(json.loads(line)["control"])


if __name__ == "__main__":
    main()
