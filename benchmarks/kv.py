"""`python -m benchmarks.kv`: the store and the registry, SQLite against a single etcd member in the same run.

Puts and registrations a second, how watches fan out to 1,000 watchers, what an instance and a watcher cost in memory
at 1,000 and 10,000 instances. Each round takes the drivers in turn; medians are printed.

    python -m benchmarks.kv --quick
    python -m benchmarks.kv --cases puts,fanout --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import tempfile
from pathlib import Path

import uvloop

from benchmarks.kv_cases import fanout, memory, writes
from benchmarks.kv_cases.drivers import drivers
from services.control import GC_THRESHOLDS

CASES = {
    "puts-1": lambda opened, quick: writes.puts(opened.store, in_flight=1, seconds=1 if quick else 3),
    "puts-64": lambda opened, quick: writes.puts(opened.store, in_flight=64, seconds=1 if quick else 3),
    "puts-1024": lambda opened, quick: writes.puts(opened.store, in_flight=1024, seconds=1 if quick else 3),
    "registrations-64": lambda opened, quick: writes.registrations(opened.store, 64, 1 if quick else 3),
    "registrations-512": lambda opened, quick: writes.registrations(opened.store, 512, 1 if quick else 3),
    "keepalives-64": lambda opened, quick: writes.keepalives(opened.store, 64, 1 if quick else 3),
}
# These are of the control process, whatever is below it.
WHOLE = {"fanout": fanout.measure, "memory": memory.measure}


async def _rounds(names: list[str], rounds: int, *, quick: bool) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for driver in drivers():
            with tempfile.TemporaryDirectory() as folder:
                for name in names:
                    async with driver.opened(Path(folder) / name) as opened:
                        rate = await CASES[name](opened, quick)
                    found.setdefault(name, {}).setdefault(driver.name, []).append(rate)
    return {
        name: {driver: statistics.median(rates) for driver, rates in by_driver.items()}
        for name, by_driver in found.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default=",".join((*CASES, *WHOLE)))
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    options = parser.parse_args()
    # As in the control process.
    gc.set_threshold(*GC_THRESHOLDS)
    wanted = options.cases.split(",")
    if unknown := set(wanted) - CASES.keys() - WHOLE.keys():
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    numbers: dict[str, object] = {}
    names = [name for name in wanted if name in CASES]
    if names:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            compared = runner.run(_rounds(names, 1 if options.quick else options.rounds, quick=options.quick))
        print(f"{'per second':20} {'sqlite':>10} {'etcd':>10}   sqlite/etcd")
        for name, rates in compared.items():
            print(f"{name:20} {rates['sqlite']:10,.0f} {rates['etcd']:10,.0f} {rates['sqlite'] / rates['etcd']:10.1f}")
        numbers |= compared
    for name in wanted:
        if name in WHOLE:
            numbers[name] = WHOLE[name](quick=options.quick)
            print(f"{name}:")
            for what, value in numbers[name].items():  # type: ignore[attr-defined]
                print(f"  {what:46} {value:12,.1f}")
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
