"""What the policies of mesh/resilience cost a call, in nanoseconds: python -m benchmarks.policies."""

from __future__ import annotations

import random
import time
import timeit
from collections.abc import Callable

from mesh.resilience.balancer import Balancer, RoundRobin
from mesh.resilience.least_request import LeastRequest
from mesh.resilience.outlier import OutlierDetector
from mesh.resilience.peak_ewma import Latency, PeakEwma
from mesh.resilience.policy import OutlierOptions, RateLimitOptions, RetryOptions
from mesh.resilience.rate_limit import RateLimiter
from mesh.resilience.retry_budget import RetryBudget
from mesh.resilience.ring_hash import RingHash

_SIZES = (3, 30, 300)
_CALLS = 50_000
_ROUNDS = 5


class Item:
    """What a balancer chooses among."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.in_flight = number % 3


def main() -> None:
    print(f"{'':24}" + "".join(f"{size:>8} endpoints" for size in _SIZES))
    for name, make in _BALANCERS.items():
        costs = [_pick_cost(make(*_items(size))) for size in _SIZES]
        print(f"{name + ', pick':24}" + "".join(f"{cost:>15.0f} ns" for cost in costs))
    for name, work in _others().items():
        print(f"{name:40}{_ns(work):>8.0f} ns")
    for size in (100, 1000):
        items, weights = _items(size)
        began = time.perf_counter()
        _BALANCERS["ring_hash"](items, weights)
        print(f"{f'ring_hash, ring of {size} made':40}{(time.perf_counter() - began) * 1e3:>8.1f} ms")


def _items(count: int) -> tuple[list[Item], list[int]]:
    return [Item(number) for number in range(count)], [100] * count


def _peak_ewma(items: list[Item], weights: list[int]) -> Balancer[Item]:
    now = time.monotonic
    return PeakEwma(items, weights, [Latency(10.0, 0.03, now()) for _ in items], now, random.random)


def _ring_hash(items: list[Item], weights: list[int]) -> Balancer[Item]:
    return RingHash(items, weights, [f"orders-{item.number}" for item in items], 1.25, random.random)


_BALANCERS: dict[str, Callable[[list[Item], list[int]], Balancer[Item]]] = {
    "round_robin": RoundRobin,
    "least_request": lambda items, weights: LeastRequest(items, weights, random.random),
    "peak_ewma": _peak_ewma,
    "ring_hash": _ring_hash,
}


def _others() -> dict[str, Callable[[], object]]:
    now = time.monotonic
    budget = RetryBudget(RetryOptions())
    alone = RateLimiter(RateLimitOptions(10**6))
    keyed = RateLimiter(RateLimitOptions(10**6, key="peer"))
    full = RateLimiter(RateLimitOptions(0.001, burst=1, key="peer", max_keys=1000))
    for number in range(1000):
        full.take(b"%d" % number, now())
    made_up = iter(range(10**9))
    detector = OutlierDetector(OutlierOptions(), now())
    hosts = [detector.host(number) for number in range(30)]
    latency = Latency(10.0, 0.03, now())
    return {
        "retry budget, a call": lambda: budget.deposit(now()),
        "rate limit, one bucket": lambda: alone.take(b"", now()),
        "rate limit, by key": lambda: keyed.take(b"ipv4:10.1.2.3", now()),
        "rate limit, flood of made-up keys": lambda: full.take(b"x%d" % next(made_up), now()),
        "outlier, a call": lambda: detector.record(hosts[0], now(), failed=False, seconds=0.01),
        "latency, a call": lambda: latency.observe(0.01, now()),
    }


def _pick_cost(balancer: Balancer[Item]) -> float:
    def admits(_item: Item) -> bool:
        return True

    return _ns(lambda: balancer.pick(b"user-4711", admits))


def _ns(work: Callable[[], object]) -> float:
    """Return the least that one call took."""
    return min(timeit.repeat(work, number=_CALLS, repeat=_ROUNDS)) / _CALLS * 1e9


if __name__ == "__main__":
    main()
