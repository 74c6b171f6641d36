"""Counts and durations by service, method and code, kept in plain lists and read when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from proxy.call.call import Call
from proxy.call.interceptor import Interceptor

# Seconds: OpenTelemetry's advice for rpc durations, with finer steps below 5 ms, where a proxy lives.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

# Calls for methods that no service declares share one label: a hostile client must not grow the metrics.
UNKNOWN = "_unknown"


class MethodStats:
    """The numbers of one method on one listener."""

    __slots__ = ("bytes_in", "bytes_out", "codes", "in_flight", "method", "reasons", "seconds", "service", "slots")

    def __init__(self, service: str, method: str) -> None:
        self.service = service
        self.method = method
        self.codes: dict[int, int] = {}
        self.reasons: dict[str, int] = {}
        # Calls per bucket, the last one beyond all bounds; and the sum of their durations.
        self.slots = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.in_flight = 0
        self.bytes_in = 0
        self.bytes_out = 0


class Metrics(Interceptor):
    """Counts every call."""

    name = "metrics"

    def __init__(self) -> None:
        self._stats: dict[tuple[str, str, str], MethodStats] = {}

    def on_request(self, call: Call) -> None:
        self._of(call).in_flight += 1

    def on_end(self, call: Call) -> None:
        stats = self._of(call)
        stats.in_flight -= 1
        status = call.status
        stats.codes[status] = stats.codes.get(status, 0) + 1
        seconds = call.ended_at - call.started_at
        stats.slots[bisect_left(BUCKETS, seconds)] += 1
        stats.seconds += seconds
        stats.bytes_in += call.bytes_in
        stats.bytes_out += call.bytes_out
        if call.reason is not None:
            text = call.reason.text
            stats.reasons[text] = stats.reasons.get(text, 0) + 1

    def snapshot(self) -> Iterator[tuple[str, MethodStats]]:
        """Return the numbers so far, each with the listener that they belong to."""
        for (listener, _, _), stats in self._stats.items():
            yield listener, stats

    @property
    def calls_total(self) -> int:
        return sum(sum(stats.codes.values()) for stats in self._stats.values())

    @property
    def calls_in_flight(self) -> int:
        return sum(stats.in_flight for stats in self._stats.values())

    def _of(self, call: Call) -> MethodStats:
        route = call.route
        if route is None:
            return self._at((call.listener, UNKNOWN, UNKNOWN))
        stats = route.stats
        if stats is None:  # once per method and compiled table
            stats = route.stats = self._at((call.listener, route.service, route.label))
        return stats

    def _at(self, key: tuple[str, str, str]) -> MethodStats:
        stats = self._stats.get(key)
        if stats is None:
            stats = self._stats[key] = MethodStats(key[1], key[2])
        return stats
