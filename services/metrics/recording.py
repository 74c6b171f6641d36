"""Series that the service itself makes: of recording rules, and `ALERTS`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from services.metrics.alerts.states import Active, State
from services.metrics.promql.data import STALE
from services.metrics.promql.labels import NAME, Labels, replaced
from services.metrics.samples import Samples
from services.metrics.store import MetricStore

SOURCE = "rules"


class Recorder:
    """Writes what rules come to, and ends the series that they no longer come to."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store
        self._last: dict[tuple[str, str, str], frozenset[Labels]] = {}

    async def record(
        self,
        rule: tuple[str, str, str],
        series: Mapping[Labels, float],
        at_ms: int,
        before: Iterable[Labels] = (),
    ) -> None:
        """Store one value a series, and stale markers for the series of the rule's evaluation before.

        These are `before` when that was before this process started.
        """
        gone = self._last.get(rule, frozenset(before)) - series.keys()
        values = {**dict.fromkeys(gone, STALE), **series}
        self._last[rule] = frozenset(series)
        if not values:
            return
        count = len(values)
        samples = Samples(
            list(values),
            np.arange(count, dtype=np.int64),
            np.full(count, at_ms, np.int64),
            np.array(list(values.values()), np.float64),
        )
        await self._store.append(samples, source=f"{SOURCE}/{rule[0]}/{rule[1]}/{rule[2]}", tapped=False)

    @staticmethod
    def alert_series(name: str, alerts: Iterable[Active]) -> Iterator[tuple[Labels, float]]:
        """Yield Prometheus' series `ALERTS` of pending and firing alerts."""
        for active in alerts:
            if active.state is not State.RESOLVED:
                pairs = ((NAME, "ALERTS"), ("alertname", name), ("alertstate", active.state.value))
                yield replaced(active.labels, pairs), 1.0
