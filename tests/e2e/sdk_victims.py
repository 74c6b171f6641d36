"""Instances, each a process, that tests mistreat while a client of the SDK calls them at a fixed rate."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

import mesh
from mesh.options import ADVERTISE_VARIABLE, LISTEN_VARIABLE
from mesh.resilience.breaker import BreakerState
from mesh.sdk.endpoints import Endpoint
from mesh.sdk.mesh import Mesh
from tests.e2e.namespaces import Namespace
from tests.e2e.registry_harness import ROOT
from tests.e2e.sdk_instance import METHOD
from tests.unit.mesh.sdk.helpers import Control, control_plane, until
from tests.unit.mesh.sdk.policies import publish

# Calls a second, and how many may be in flight: more than a machine that keeps up has when an
# instance hangs, and few enough that a loaded one answers them within an attempt's time.
RATE = 1000
IN_FLIGHT = 200
# A generator that is late begins so many at a time, and lets answers come in.
BURST = 10
DEADLINE = 5.0
# What a call may take beyond its deadline on a machine that has other things to do.
LATE = 10.0
POLICY = {
    "balancer": {"kind": "least_request"},
    # Get may be carried out twice.
    "retry": {"per_try_seconds": 1.0, "on": ["UNAVAILABLE", "connect-failure", "refused"]},
    "breaker": {"minimum_calls": 5, "open_seconds": 1},
    "outlier": {"consecutive_failures": 3, "base_ejection_seconds": 2},
}


class Victims:
    """The processes, and a client of theirs."""

    def __init__(self, control: Control, client: Mesh) -> None:
        self.control = control
        self.client = client
        self.call = client.channel("victim").unary_unary(METHOD)
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str, where: Namespace | None = None) -> None:
        """Start an instance, in a namespace if told so."""
        command: tuple[str, ...] = (sys.executable, "-m", "tests.e2e.sdk_instance", self.control.address, name)
        environment = dict(os.environ)
        if where is not None:
            command = where.inside(*command)
            environment |= {LISTEN_VARIABLE: "0.0.0.0:0", ADVERTISE_VARIABLE: where.far}
        self.processes[name] = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environment, stdin=asyncio.subprocess.DEVNULL
        )

    async def serving(self, *names: str) -> None:
        """Wait until the client knows these."""
        discovery = self.client._discovery
        assert discovery is not None
        upstream = discovery.upstream("victim")
        await until(lambda: {one.instance.instance_id for one in upstream.endpoints} == set(names), f"{names}")

    def endpoint(self, name: str) -> Endpoint:
        discovery = self.client._discovery
        assert discovery is not None
        found = [one for one in discovery.upstream("victim").endpoints if one.instance.instance_id == name]
        return found[0]

    def set_aside(self, name: str) -> bool:
        """Tell whether an instance was found to fail."""
        endpoint = self.endpoint(name)
        was_out = endpoint.outlier is not None and endpoint.outlier.ejections > 0
        return was_out or endpoint.breaker.state is not BreakerState.CLOSED

    async def stop(self) -> None:
        for process in self.processes.values():
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                await process.wait()


@contextlib.asynccontextmanager
async def victims(folder: Path, *names: str, apart: tuple[str, Namespace] | None = None) -> AsyncIterator[Victims]:
    """Start instances and a client, with a control plane; one instance may live apart, in a namespace."""
    places = dict([apart] if apart is not None else [])
    listen = f"{apart[1].near}:0" if apart is not None else "127.0.0.1:0"
    async with control_plane(folder / "kv.db", listen) as control:
        await publish(control, {"services": {"victim": POLICY}})
        async with mesh.join("caller", control=control.address, telemetry=False) as client:
            made = Victims(control, client)
            try:
                await asyncio.gather(*(made.start(name, places.get(name)) for name in names))
                await made.serving(*names)
                discovery = client._discovery
                assert discovery is not None
                await until(lambda: discovery.release == 1, "the policy")
                yield made
            finally:
                await made.stop()


class Tally:
    """What became of calls."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended: Counter[str] = Counter()
        self.by: Counter[str] = Counter()
        self.late = 0
        self.seconds: list[float] = []
        # Of the last series: calls a second, by how much a call began after its time at most, and how many of them
        # had to wait for others since the machine had too much to do.
        self.rate = 0.0
        self.behind = 0.0
        self.held = 0

    async def one(self, call: Any) -> None:
        self.begun += 1
        began = time.monotonic()
        try:
            self.by[(await call(b"", timeout=DEADLINE)).decode()] += 1
            self.ended["OK"] += 1
        except grpc.aio.AioRpcError as error:
            self.ended[f"{error.code().name}: {error.details()}"] += 1
        took = time.monotonic() - began
        self.seconds.append(took)
        self.late += took > DEADLINE + LATE

    async def at_rate(self, call: Any, count: int) -> None:
        """Begin so many calls, `RATE` a second, each at its time whatever became of those before it."""
        began = time.monotonic()
        self.behind, self.held = 0.0, 0
        async with asyncio.TaskGroup() as calls:
            for number in range(count):
                behind = time.monotonic() - began - number / RATE
                if behind < 0:
                    await asyncio.sleep(-behind)
                elif number % BURST == 0:
                    await asyncio.sleep(0)
                self.held += self.in_flight >= IN_FLIGHT
                while self.in_flight >= IN_FLIGHT:
                    await asyncio.sleep(0.001)
                self.behind = max(self.behind, time.monotonic() - began - number / RATE)
                calls.create_task(self.one(call))
                # A task that was just made counts when it runs: a burst is small beside the limit.
            self.rate = count / (time.monotonic() - began)

    @property
    def in_flight(self) -> int:
        return self.begun - sum(self.ended.values())

    def quantile(self, share: float) -> float:
        return statistics.quantiles(self.seconds, n=1000)[int(share * 1000) - 1]

    def check(self, what: str) -> None:
        """At least 99.9 % succeeded, and none waited past its deadline."""
        total = sum(self.ended.values())
        said = f"{what}: {total} calls, {self.rate:.0f} a second begun (late by {self.behind * 1000:.0f} ms at most"
        said += f", {self.held} held up): {dict(self.ended)}, by {dict(self.by)}, p50 {self.quantile(0.5) * 1000:.1f}"
        said += f" p99 {self.quantile(0.99) * 1000:.1f} p99.9 {self.quantile(0.999) * 1000:.1f} ms"
        print(f"{said}, the longest {max(self.seconds) * 1000:.1f} ms")  # noqa: T201 - for `pytest -s`
        assert total == self.begun
        assert self.ended["OK"] >= 0.999 * total, self.ended
        assert not self.late
