"""The admin port of an edge with several workers: their numbers added up, their readiness together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mesh.telemetry import resources
from proxy.admin.http import encoded
from proxy.workers.merge import parse
from proxy.workers.numbers import Numbers, ask
from proxy.workers.slot import Slot

# How the master's own process is labelled beside those of the workers.
MASTER = "master"


class _All(Collector):
    """What a scrape of the edge finds, once the workers were asked."""

    def __init__(self, numbers: Numbers, own: CollectorRegistry) -> None:
        self._numbers = numbers
        self._own = own

    def collect(self) -> Iterator[Metric]:
        yield from self._numbers.collect(parse(generate_latest(self._own).decode(), MASTER))


class _Workers(Collector):
    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots

    def collect(self) -> Iterator[Metric]:
        running = sum(slot.serving is not None for slot in self._slots)
        yield GaugeMetricFamily("mesh_edge_workers", "Workers that run.", value=running)
        yield CounterMetricFamily(
            "mesh_edge_worker_restarts", "Workers started in place of one that died.",
            value=sum(slot.restarts for slot in self._slots),
        )  # fmt: skip


def master_app(numbers: Numbers, slots: Sequence[Slot], draining: Callable[[], bool]) -> Starlette:
    """Return the master's admin application."""
    own = CollectorRegistry()
    own.register(_Workers(slots))
    resources.register(own)
    everything = CollectorRegistry()
    everything.register(_All(numbers, own))

    async def metrics(request: Request) -> Response:
        await numbers.ask()
        return encoded(everything, request)

    async def alive(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_request: Request) -> Response:
        if draining():
            return PlainTextResponse("draining\n", status_code=503)
        for slot, (status, said) in zip(slots, await asyncio.gather(*map(_ready, slots)), strict=True):
            # A slot without a worker holds up its share of new connections.
            if status != 200:
                return PlainTextResponse(f"worker {slot.index}: {said}", status_code=503)
        return PlainTextResponse("ready\n")

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", alive), Route("/readyz", ready)])


async def _ready(slot: Slot) -> tuple[int, str]:
    worker = slot.serving
    if worker is None:
        return 503, "it is being started\n"
    try:
        return await ask(worker.source.admin, "/readyz")
    except (OSError, TimeoutError, ValueError):
        return 503, "it does not answer\n"
