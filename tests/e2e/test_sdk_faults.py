"""Three instances, each a process, are killed, hung, slowed down and cut off while a client of the SDK calls them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.resilience.breaker import BreakerState
from tests.e2e.namespaces import namespace
from tests.e2e.registry_harness import ROOT
from tests.e2e.sdk_instance import SLOW
from tests.e2e.sdk_victims import DEADLINE, RATE, Tally, Victims, victims
from tests.unit.mesh.sdk.helpers import until

NAMES = ("one", "two", "three")
# Three seconds of them, on a machine that keeps up.
CALLS = 3 * RATE


@pytest.mark.parametrize("how", ["kill", "hang", "slow"])
async def test_calls_succeed_while_one_of_three_is_away(tmp_path: Path, how: str) -> None:
    async with victims(tmp_path, *NAMES) as made:
        victim = made.processes["two"]

        async def strike() -> None:
            if how == "kill":
                victim.kill()
            elif how == "hang":
                victim.send_signal(signal.SIGSTOP)
            else:
                await _slow_down(made, "two")

        await _call_while(made, strike, how)
        # Slow is not failed, but on a machine that makes an attempt of it as long as one may be.
        assert made.set_aside("two") or how == "slow"
        if how == "hang":
            victim.send_signal(signal.SIGCONT)
            await _back(made, how)
        elif how == "kill":
            await victim.wait()
            await made.start("two")
            await _back(made, how)


async def test_calls_succeed_while_one_of_three_is_cut_off(tmp_path: Path) -> None:
    """Its packets vanish: nobody is told, and no connection is closed."""
    async with namespace() as apart, victims(tmp_path, *NAMES, apart=("two", apart)) as made:
        await _call_while(made, apart.cut, "partition")
        assert made.set_aside("two")
        assert made.endpoint("two").address.startswith(f"{apart.far}:")
        await apart.heal()
        await _back(made, "partition")


async def _call_while(made: Victims, strike: Callable[[], Awaitable[None]], what: str) -> None:
    """Call three instances at a fixed rate, and strike at "two" in the middle."""
    tally = Tally()
    await tally.at_rate(made.call, RATE // 5)
    assert set(tally.by) == set(NAMES)
    before = tally.begun
    calling = asyncio.create_task(tally.at_rate(made.call, CALLS))
    await until(lambda: tally.begun > before + CALLS // 6)
    await strike()
    await calling
    tally.check(what)
    print(f"{what}: {made.endpoint('two').failures} attempts at it failed")  # noqa: T201 - for `pytest -s`
    # The others have taken over.
    assert tally.by["two"] < CALLS / 3


async def _slow_down(made: Victims, name: str) -> None:
    async with grpc.aio.insecure_channel(made.endpoint(name).address) as channel:
        call: Any = channel.unary_unary(SLOW)
        await call(b"0.3")


async def _back(made: Victims, what: str) -> None:
    """Wait until the one that was away gets calls again."""
    tally = Tally()
    began = time.monotonic()

    async def again() -> bool:
        await tally.one(made.call)
        return tally.by["two"] > 0

    await until(again, "a call to it")
    print(f"{what}: calls again after {time.monotonic() - began:.1f} s")  # noqa: T201 - for `pytest -s`
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
