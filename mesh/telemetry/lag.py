"""How late an event loop is: what a call waits before anybody looks at it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

# How often it is measured, and how many measurements the worst is of.
EVERY_SECONDS = 0.5
REMEMBERED = 20
# It is about the process, so an edge's workers are told apart as by `process_cpu_seconds_total`.
METRIC = "process_event_loop_lag_seconds"


class LoopLag(Collector):
    """The worst lag of the last ten seconds, for a registry of prometheus-client. `run` is its task."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque((0.0,), REMEMBERED)

    async def run(self) -> None:
        """Measure without end."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
            self._recent.append(max(0.0, loop.time() - due))

    @property
    def seconds(self) -> float:
        return max(self._recent)

    def collect(self) -> Iterator[Metric]:
        """Return it as it is now."""
        yield GaugeMetricFamily(METRIC, "How late the event loop was, at worst of the last 10 s.", value=self.seconds)
