"""A control process of its own, for tests that kill it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from mesh.api.registry.v1 import RegistryStub
from mesh.cli.supervisor.ready import serving_all
from services.control import OFF
from services.names import TELEMETRY

ROOT = Path(__file__).resolve().parents[2]
# Generous: the machine may be busy. Nothing waits this long unless it is broken.
PATIENCE = 60.0
# What `start` does about the telemetry services, which come after the others.
AWAITED, LATER = "awaited", "later"


class ControlProcess:
    """`python -m services` on one data directory and, once it has one, on one port."""

    def __init__(self, data_dir: Path, telemetry: str = OFF) -> None:
        """Have no telemetry services; have them `AWAITED` by `start`, or come `LATER`."""
        self.data_dir = data_dir
        self._telemetry = telemetry
        self.address = "127.0.0.1:0"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it serves."""
        reader, writer = os.pipe()
        try:
            self._process = await self._spawn("--ready-fd", str(writer), pass_fds=(writer,))
        finally:
            os.close(writer)
        with os.fdopen(reader) as pipe:
            line = await asyncio.wait_for(asyncio.to_thread(pipe.readline), PATIENCE)
        assert line, (await self._process.communicate())[1].decode()
        self.address = json.loads(line)["control"]
        if self._telemetry == AWAITED:
            await serving_all(self.address, TELEMETRY)

    async def kill(self) -> None:
        """End it as a power failure would."""
        assert self._process is not None
        self._process.kill()
        await self._process.communicate()

    async def terminate(self) -> tuple[int, str]:
        """Ask it to stop; return its exit code and what it said."""
        assert self._process is not None
        self._process.terminate()
        return await self._end(self._process)

    async def fail_to_start(self, *more: str) -> tuple[int, str]:
        """Start it where it cannot; return its exit code and what it said."""
        return await self._end(await self._spawn(*more))

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            self.address,
            options=(
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 20_000),
                ("grpc.max_reconnect_backoff_ms", 200),
            ),
        )

    async def _spawn(self, *more: str, pass_fds: tuple[int, ...] = ()) -> asyncio.subprocess.Process:
        without = ("--telemetry-store", OFF) if self._telemetry == OFF else ()
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services", "--listen", self.address, "--data-dir", str(self.data_dir)),
            *(*without, *more),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=pass_fds,
        )

    @staticmethod
    async def _end(process: asyncio.subprocess.Process) -> tuple[int, str]:
        stdout, stderr = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode is not None
        return process.returncode, (stdout + stderr).decode()


@contextlib.asynccontextmanager
async def control_process(data_dir: Path, telemetry: str = OFF) -> AsyncIterator[ControlProcess]:
    """Run one, whatever happens to it meanwhile."""
    control = ControlProcess(data_dir, telemetry)
    try:
        await control.start()
        yield control
    finally:
        await control.stop()


@contextlib.asynccontextmanager
async def registry_stub(control: ControlProcess) -> AsyncIterator[Any]:
    """Return a stub; not typed, as grpc's type stubs know nothing of `read` and `write`."""
    async with control.channel() as channel:
        yield RegistryStub(channel)


@contextlib.asynccontextmanager
async def running(*coroutines: Any) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Run coroutines beside the test, and end them with it."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
