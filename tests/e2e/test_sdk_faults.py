"""Three instances, each a process, are killed, stopped and slowed down while a client of the SDK calls them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import mesh
from mesh.resilience.breaker import BreakerState
from mesh.sdk.endpoints import Endpoint
from mesh.sdk.mesh import Mesh
from tests.e2e.registry_harness import ROOT
from tests.e2e.sdk_instance import METHOD, SLOW
from tests.unit.mesh.sdk.helpers import Control, control_plane, until
from tests.unit.mesh.sdk.policies import publish

NAMES = ("one", "two", "three")
CALLS = 1000
# As many callers, each of which makes one call after the other: about a thousand calls a second on an idle core.
IN_FLIGHT = 20
DEADLINE = 5.0
# What a call may take beyond its deadline on a machine that has other things to do.
LATE = 10.0
POLICY = {
    "balancer": {"kind": "least_request"},
    # Get may be carried out twice.
    "retry": {"per_try_seconds": 0.5, "on": ["UNAVAILABLE", "connect-failure", "refused"]},
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

    async def start(self, name: str) -> None:
        """Start an instance."""
        self.processes[name] = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.e2e.sdk_instance", self.control.address, name),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
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
async def victims(folder: Path, *names: str) -> AsyncIterator[Victims]:
    async with control_plane(folder / "kv.db") as control:
        await publish(control, {"services": {"victim": POLICY}})
        async with mesh.join("caller", control=control.address, telemetry=False) as client:
            made = Victims(control, client)
            try:
                await asyncio.gather(*(made.start(name) for name in names))
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
        self.ended: Counter[str] = Counter()
        self.by: Counter[str] = Counter()
        self.late = 0
        self.seconds: list[float] = []
        self._began = time.monotonic()

    async def one(self, call: Any) -> None:
        began = time.monotonic()
        try:
            self.by[(await call(b"", timeout=DEADLINE)).decode()] += 1
            self.ended["OK"] += 1
        except grpc.aio.AioRpcError as error:
            self.ended[f"{error.code().name}: {error.details()}"] += 1
        took = time.monotonic() - began
        self.seconds.append(took)
        self.late += took > DEADLINE + LATE

    async def many(self, call: Any, count: int) -> None:
        """Make so many calls, `IN_FLIGHT` at a time."""
        left = count

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await self.one(call)

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))

    def quantile(self, share: float) -> float:
        return statistics.quantiles(self.seconds, n=1000)[int(share * 1000) - 1]

    def check(self) -> None:
        """At least 99.9 % succeeded, and none waited past its deadline."""
        total = sum(self.ended.values())
        rate = total / (time.monotonic() - self._began)
        said = f"{total} calls, {rate:.0f} a second: {dict(self.ended)}, by {dict(self.by)}"
        print(f"{said}, p99 {self.quantile(0.99) * 1000:.1f} ms")  # noqa: T201 - for `pytest -s`
        assert self.ended["OK"] >= 0.999 * total, self.ended
        assert not self.late


@pytest.mark.parametrize("how", ["kill", "hang", "slow"])
async def test_calls_succeed_while_one_of_three_is_away(tmp_path: Path, how: str) -> None:
    async with victims(tmp_path, *NAMES) as made:
        tally = Tally()
        await tally.many(made.call, CALLS // 5)
        assert set(tally.by) == set(NAMES)
        calling = asyncio.create_task(tally.many(made.call, CALLS))
        before = sum(tally.ended.values())
        await until(lambda: sum(tally.ended.values()) > before + CALLS // 10)
        victim = made.processes["two"]
        if how == "kill":
            victim.kill()
        elif how == "hang":
            victim.send_signal(signal.SIGSTOP)
        else:
            await _slow_down(made, "two")
        await calling
        tally.check()
        # The others have taken over.
        assert tally.by["two"] < CALLS / 3
        assert made.set_aside("two") == (how != "slow")
        if how == "hang":
            victim.send_signal(signal.SIGCONT)
            await _back(made)
        elif how == "kill":
            await victim.wait()
            await made.start("two")
            await _back(made)


async def _slow_down(made: Victims, name: str) -> None:
    async with grpc.aio.insecure_channel(made.endpoint(name).address) as channel:
        call: Any = channel.unary_unary(SLOW)
        await call(b"0.4")


async def _back(made: Victims) -> None:
    """Wait until the one that was away gets calls again."""
    tally = Tally()

    async def again() -> bool:
        await tally.one(made.call)
        return tally.by["two"] > 0

    await until(again, "a call to it")
    assert tally.ended["OK"] == sum(tally.ended.values())


async def test_a_dependency_that_hangs_slows_nobody_down_once_its_breaker_is_open(tmp_path: Path) -> None:
    async with victims(tmp_path, "one") as made:
        await until(lambda: _answers(made), "an answer")
        made.processes["one"].send_signal(signal.SIGSTOP)
        opening = Tally()

        async def opened() -> bool:
            await asyncio.gather(*(opening.one(made.call) for _ in range(5)))
            return made.endpoint("one").breaker.state is BreakerState.OPEN

        await until(opened, "its breaker")
        tally = Tally()
        refused = 0
        for _ in range(1000):
            before = tally.ended.copy()
            await tally.one(made.call)
            (said,) = tally.ended - before
            refused += "circuit breakers are open" in said
        p99 = tally.quantile(0.99) * 1e3
        print(f"a dependency that hangs: {refused} of 1000 calls refused, p99 {p99:.2f} ms")  # noqa: T201 - as above
        assert tally.ended["OK"] == 0
        # All but the probes, of which there are at most three a second.
        assert refused >= 900
        assert not tally.late


async def _answers(made: Victims) -> bool:
    with contextlib.suppress(grpc.aio.AioRpcError):
        return bool(await made.call(b"", timeout=DEADLINE))
    return False


async def test_no_thread_is_made_for_calls_in_flight(tmp_path: Path) -> None:
    program = """
import asyncio, sys, threading, psutil, mesh
from pathlib import Path
from tests.unit.mesh.sdk.helpers import Lab, LabStub, add_lab, control_plane, told, until

async def main():
    threads = psutil.Process().num_threads
    async with control_plane(Path(sys.argv[1])) as control, mesh.join(
        "labs", control=control.address, telemetry=False
    ) as m:
        lab = Lab()
        m.add(add_lab, lab)
        await m.start()
        await m.registered()
        stub = LabStub(m.channel("labs"))
        await asyncio.gather(*(stub.Get(told()) for _ in range(200)))
        found = []
        for wanted in (1, 5000):
            calls = [stub.Get(told("wait")) for _ in range(wanted)]
            await until(lambda: lab.waiting == wanted, f"{wanted} calls in flight")
            found.append(threads())
            lab.gate.set()
            await asyncio.gather(*calls)
            lab.gate.clear()
        print(*found)  # noqa: T201 - for `pytest -s`

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(tmp_path / "kv.db")), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    one, many = map(int, out.split())
    print(f"{one} threads with 1 call in flight, {many} with 5,000")  # noqa: T201 - for `pytest -s`
    assert many <= one
