"""`python -m benchmarks.telemetry`: logs, traces and metrics, beside DuckDB alone with the same rows in the same run.

Rates are durable records or spans a second of the control process' CPU (one core), and by the clock, until all of them
can be found; `acks` sends at half of the rate that is wanted. Lookups are in a store of 10 million records, and one
of 4.8 million spans.

    python -m benchmarks.telemetry --quick
    python -m benchmarks.telemetry --cases columnar,otlp
    python -m benchmarks.telemetry --cases metrics
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.telemetry_cases import acks, ingest, kinds, metrics, queries, traces

CASES = {
    "columnar": lambda folder, quick: ingest.columnar(folder, rows=200_000 if quick else 2_000_000, kind=kinds.LOGS),
    "otlp": lambda folder, quick: ingest.otlp(folder, rows=100_000 if quick else 1_000_000, kind=kinds.LOGS),
    "columnar-spans": lambda folder, quick: ingest.columnar(
        folder, rows=200_000 if quick else 1_000_000, kind=kinds.SPANS
    ),
    "otlp-spans": lambda folder, quick: ingest.otlp(folder, rows=100_000 if quick else 600_000, kind=kinds.SPANS),
    "acks": lambda folder, quick: acks.measure(folder, seconds=5 if quick else 30),
    "queries": lambda folder, quick: queries.measure(folder, rows=1_000_000 if quick else 10_000_000),
    "traces": lambda folder, quick: traces.measure(folder, rows=480_000 if quick else 4_800_000),
    "metrics": lambda folder, quick: metrics.measure(folder, quick=quick),
}


async def _run(names: list[str], *, quick: bool) -> dict[str, dict[str, Any]]:
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = await CASES[name](Path(folder), quick)
        print(f"{name}:", flush=True)
        for what, value in found[name].items():
            print(f"  {what:52} {value:12,.{1 if value >= 10 else 2}f}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    options = parser.parse_args()
    wanted = options.cases.split(",")
    if unknown := set(wanted) - CASES.keys():
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        numbers = runner.run(_run(wanted, quick=options.quick))
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
