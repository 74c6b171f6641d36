"""Series that have everything that queries stumble over: resets, gaps, ends, NaN, jitter, buckets that differ."""

from __future__ import annotations

import math
import random
from typing import Any

START = 1_700_000_000_000
STEP = 15_000
COUNT = 200
END = START + STEP * COUNT
# Stands for the stale marker in files.
STALE = "stale"

Series = tuple[dict[str, str], list[int], list[Any]]


def dataset() -> list[Series]:
    """Return labels, times (milliseconds) and values; always the same."""
    rng = random.Random(42)
    made: list[Series] = []
    for job, instances in (("api", 3), ("web", 2)):
        for i in range(instances):
            for method in ("GET", "POST"):
                labels = {"__name__": "http_requests_total", "job": job, "instance": f"{job}-{i}", "method": method}
                made.append(_counter(rng, {**labels, "code": "200"}, 40, reset=0.01, skip=0.05))
                if method == "GET":
                    made.append(_counter(rng, {**labels, "code": "500"}, 3, reset=0.0, skip=0.3))
    for room in ("kitchen", "hall", "attic"):
        floor = str(len(room) % 2)
        made += [_gauge(rng, {"__name__": "temperature", "room": room, "floor": floor})]
    odd = _gauge(rng, {"__name__": "temperature", "room": "cellar", "floor": "1"})
    for place, value in ((20, math.nan), (40, math.inf), (60, -math.inf), (80, math.nan), (81, math.nan), (120, 0.0)):
        odd[2][place] = value
    made.append(odd)
    for service in ("cart", "search"):
        made += _histogram(rng, service)
    made += [
        _constant({"__name__": "build_info", "job": "api", "version": "1.2"}, 1),
        _constant({"__name__": "build_info", "job": "web", "version": "1.3"}, 1),
        _constant({"__name__": "limit", "job": "api", "code": "500"}, 2.5),
        _constant({"__name__": "limit", "job": "web", "code": "500"}, 0.5),
        _constant({"__name__": "flat", "job": "api"}, 7),
        _sparse(rng),
        _ending(rng),
        _late(rng),
    ]
    return made


def _times(rng: random.Random, skip: float) -> list[int]:
    offset = rng.randrange(STEP)
    return [START + i * STEP + offset + rng.randrange(-40, 40) for i in range(COUNT) if rng.random() >= skip]


def _counter(rng: random.Random, labels: dict[str, str], speed: float, *, reset: float, skip: float) -> Series:
    times, values, now = _times(rng, skip), [], 0.0
    for _ in times:
        now = 0.0 if rng.random() < reset else now + rng.randrange(int(2 * speed))
        values.append(now)
    return labels, times, values


def _gauge(rng: random.Random, labels: dict[str, str]) -> Series:
    times, now, values = _times(rng, 0), rng.uniform(-5, 25), []
    for _ in times:
        now += rng.uniform(-1, 1)
        values.append(round(now, 3))
    return labels, times, values


def _constant(labels: dict[str, str], value: float) -> Series:
    times = [START + i * 60_000 for i in range(COUNT // 4)]
    return labels, times, [value] * len(times)


def _sparse(rng: random.Random) -> Series:
    """Gaps that are longer than samples are looked back for."""
    times = [START + i * 70_000 for i in range(43) if not 10 < i < 17 and i != 30]
    return {"__name__": "sparse", "job": "batch"}, times, [round(rng.uniform(0, 100), 2) for _ in times]


def _ending(rng: random.Random) -> Series:
    """Ends, comes back, and ends again."""
    times = [START + i * STEP for i in range(120)]
    values: list[Any] = [round(rng.uniform(0, 10), 2) for _ in times]
    values[50] = values[119] = STALE
    for i in range(51, 70):
        values[i] = None
    kept = [(ts, value) for ts, value in zip(times, values, strict=True) if value is not None]
    return {"__name__": "ending", "job": "batch"}, [ts for ts, _ in kept], [value for _, value in kept]


def _late(rng: random.Random) -> Series:
    times = [START + i * STEP for i in range(150, COUNT)]
    return {"__name__": "late_total", "job": "batch"}, times, [1000.0 + 3 * i for i in range(len(times))]


def _histogram(rng: random.Random, service: str) -> list[Series]:
    bounds = ["0.1", "0.5", "1", "2.5", "+Inf"] if service == "cart" else ["0.05", "0.25", "1.0", "5", "+Inf"]
    times = [START + i * STEP for i in range(COUNT)]
    rows: list[list[float]] = [[] for _ in bounds]
    totals, total_sum, sums = [0] * len(bounds), 0.0, []
    for _ in times:
        for _ in range(rng.randrange(12)):
            value = rng.expovariate(1.2)
            total_sum += value
            for i, bound in enumerate(bounds):
                totals[i] += value <= float(bound)
        sums.append(round(total_sum, 4))
        for row, count in zip(rows, totals, strict=True):
            row.append(float(count))
    label = {"service": service, "job": "shop"}
    made: list[Series] = [
        ({"__name__": "latency_seconds_bucket", **label, "le": bound}, list(times), row)
        for bound, row in zip(bounds, rows, strict=True)
    ]
    made.append(({"__name__": "latency_seconds_sum", **label}, list(times), sums))
    made.append(({"__name__": "latency_seconds_count", **label}, list(times), list(rows[-1])))
    return made
