"""One registry, 1,000 watchers: how many events a second of its processor time reach them, and how late.

The watchers live in two other processes, which the load of reading would otherwise hide behind; they are cheap, raw
streams. Time is taken from before the change is asked for until a watcher has it in hand.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks.kv_cases.control import ROOT, control
from benchmarks.kv_cases.writes import an_instance
from mesh.api.registry.v1 import RegisterRequest, RegistryStub, UpdateRequest, WatchRequest

WATCHERS, PROCESSES = 1000, 2
# Changes a second in the test of lateness: 10 x 1,000 watchers.
PACE = 10.0


def measure(*, quick: bool) -> dict[str, float]:
    with control() as (address, process), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(address, process, burst=40 if quick else 200, paced=20 if quick else 100))


async def _measure(address: str, process: Any, *, burst: int, paced: int) -> dict[str, float]:
    readers = [await _reader(address, WATCHERS // PROCESSES) for _ in range(PROCESSES)]
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = RegistryStub(channel)
        lease = (await stub.Register(RegisterRequest(instance=an_instance(0), ttl_seconds=3600))).lease_id
        numbers = iter(range(1_000_000))

        async def change() -> None:
            # A version is the time at which it was asked for.
            await stub.Update(UpdateRequest(lease_id=lease, version=f"{next(numbers)}:{time.monotonic_ns()}"))

        cpu, began = sum(process.cpu_times()[:2]), time.perf_counter()
        for _ in range(burst):
            await change()
        await asyncio.gather(*(_ask(reader, burst) for reader in readers))
        wall, cpu = time.perf_counter() - began, sum(process.cpu_times()[:2]) - cpu
        late: list[float] = []
        for _ in range(paced):
            await change()
            await asyncio.sleep(1 / PACE)
        for answer in await asyncio.gather(*(_ask(reader, paced) for reader in readers)):
            late += answer
    for reader in readers:
        reader.terminate()
        await reader.wait()
    late.sort()
    events = burst * WATCHERS
    return {
        "events/s": events / wall,
        "events/s per core of the control process": events / cpu,
        "late at 10 changes/s, p50 ms": statistics.median(late),
        "late at 10 changes/s, p99 ms": late[int(len(late) * 0.99)],
        "late at 10 changes/s, max ms": late[-1],
    }


async def _reader(address: str, count: int) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.kv_cases.fanout", address, str(count)),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=1 << 26,
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).strip() == b"ready"
    return process


async def _ask(process: asyncio.subprocess.Process, count: int) -> list[float]:
    """Wait until each watcher of the reader has had `count` more changes; returns how late each was, in ms."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{count}\n".encode())
    return list(json.loads(await process.stdout.readline()))


async def _read(address: str, count: int) -> None:
    """Be a reader: watch, and tell of what came when asked."""
    late: list[list[float]] = [[] for _ in range(count)]
    synced = [asyncio.Event() for _ in range(count)]
    grown = asyncio.Event()

    async def watch(index: int, stub: Any) -> None:
        # As edges watch; what one is behind comes in one message.
        async for response in stub.Watch(WatchRequest(service="service-0", accepts_batches=True)):
            now = time.monotonic_ns()
            behind = [change for one in response.batch.revisions for change in one.changes.changes]
            for change in (*response.changes.changes, *behind):
                _, _, asked = change.instance.version.partition(":")
                if asked:
                    late[index].append((now - int(asked)) / 1e6)
            synced[index].set()
            grown.set()

    channels = [grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) for _ in range(10)]
    tasks = [asyncio.create_task(watch(index, RegistryStub(channels[index % 10]))) for index in range(count)]
    for event in synced:
        await event.wait()
    print("ready", flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        wanted = int(line)
        while any(len(one) < wanted for one in late):
            grown.clear()
            await grown.wait()
        print(json.dumps([value for one in late for value in one]), flush=True)
        for one in late:
            one.clear()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    assert Path.cwd() == ROOT
    uvloop.run(_read(sys.argv[1], int(sys.argv[2])))
