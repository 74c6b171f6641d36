"""All that is sent on, to all collectors: where it is put, and what became of it as metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import pyarrow as pa
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.forwarding.items import Form, Item
from services.forwarding.lane import Lane
from services.forwarding.metrics import Told
from services.forwarding.options import ForwardOptions, Signal, Target
from services.forwarding.origin import Origin
from services.metrics.promql.labels import NAME
from services.metrics.samples import Meta, Samples

# What an item costs in memory beside its content; and a sample and a series of samples.
_ITEM_BYTES, _SAMPLE_BYTES, _SERIES_BYTES = 300, 24, 400
_LABELS = ("target", "signal")


class Forwarding(Collector):
    """Use as `async with`; what was stored is told to it, and it never waits or fails."""

    def __init__(
        self, targets: Sequence[Target], me: str, folder: Path | None, options: ForwardOptions | None = None
    ) -> None:
        """Send on as the control process `me`, and keep what waits in folders below `folder`.

        Raises:
            UsageError: the files of a target cannot be read.

        """
        self.me = me
        self._lanes = [
            Lane(
                target, signal, options or ForwardOptions(), me, folder / target.name / signal.value if folder else None
            )
            for target in targets
            for signal in target.signals
        ]
        self._by_signal = {one: [lane for lane in self._lanes if lane.signal is one] for one in Signal}

    async def __aenter__(self) -> Self:
        for lane in self._lanes:
            await lane.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(lane.__aexit__() for lane in self._lanes))

    async def check(self, origin: Origin, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """End a call that brings what has been here already: else it would go round for ever."""
        if origin.circular(self.me):
            way = " -> ".join((*origin.via, self.me))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"telemetry is forwarded in a circle: {way}")

    def wants(self, signal: Signal) -> bool:
        return bool(self._by_signal[signal])

    def otlp(self, signal: Signal, data: bytes, records: int, via: tuple[str, ...] = ()) -> None:
        """Take an export of OTLP as it came."""
        self._put(signal, Item(Form.OTLP, data, records, len(data) + _ITEM_BYTES, via))

    def rows(self, signal: Signal, table: pa.Table) -> None:
        """Take log records or spans as their table has them."""
        form = Form.LOGS if signal is Signal.LOGS else Form.SPANS
        self._put(signal, Item(form, table, table.num_rows, table.nbytes + _ITEM_BYTES))

    def samples(self, samples: Samples, known: Mapping[str, Meta]) -> None:
        """Take samples; `known` says what there is to know of metrics that they do not describe themselves."""
        if not self.wants(Signal.METRICS) or not len(samples):
            return
        names = {dict(labels)[NAME] for labels in samples.series}
        meta = {name: found for name in names if (found := samples.meta.get(name) or known.get(name)) is not None}
        size = _ITEM_BYTES + _SAMPLE_BYTES * len(samples) + _SERIES_BYTES * len(samples.series)
        self._put(Signal.METRICS, Item(Form.SAMPLES, Told(samples, meta), len(samples), size))

    def _put(self, signal: Signal, item: Item) -> None:
        for lane in self._by_signal[signal]:
            lane.put(item)

    def collect(self) -> Iterator[Metric]:
        """Return what became of it, as metrics."""
        records = CounterMetricFamily(
            "mesh_forward_records",
            "Records for other collectors, by what became of them.",
            labels=(*_LABELS, "outcome"),
        )
        retries = CounterMetricFamily("mesh_forward_retries", "Requests that had to be sent again.", labels=_LABELS)
        waiting = GaugeMetricFamily("mesh_forward_waiting_bytes", "What waits to be sent.", labels=(*_LABELS, "where"))
        for lane in self._lanes:
            labels = (lane.target.address, lane.signal.value)
            for outcome in ("sent", "dropped", "rejected"):
                records.add_metric((*labels, outcome), getattr(lane.stats, outcome))
            retries.add_metric(labels, lane.stats.retries)
            waiting.add_metric((*labels, "memory"), lane.memory_bytes)
            waiting.add_metric((*labels, "disk"), lane.spool_bytes)
        yield from (records, retries, waiting)
