"""The numbers of all workers, also of those that have ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics_core import Metric

from proxy.workers.merge import Families, merge, parse, totals, without_departed

# How often all workers are asked when nobody else asks: what a worker that is killed counted since is lost.
ASK_SECONDS = 5.0
ANSWER_SECONDS = 2.0


class Source:
    """One worker's metrics, as last heard."""

    def __init__(self, worker: str, admin: str, last_metrics: str) -> None:
        self.worker = worker
        # The unix socket of its admin port, and the file that it leaves at its end.
        self.admin = admin
        self._last_metrics = Path(last_metrics)
        self.families: Families = {}

    async def ask(self) -> None:
        """Hear it; one that does not answer keeps what it said last."""
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            status, body = await ask(self.admin, "/metrics")
            if status == 200:
                self.families = parse(body, self.worker)

    def read_last(self) -> None:
        """Take what it left at its end; one that was killed left nothing, and keeps what it said last."""
        with contextlib.suppress(OSError, ValueError):
            self.families = parse(self._last_metrics.read_text(), self.worker)
        with contextlib.suppress(OSError):
            self._last_metrics.unlink(missing_ok=True)


class Numbers:
    """What /metrics of the whole edge says."""

    def __init__(self) -> None:
        self._live: dict[Source, None] = {}
        self._ended: Families = {}

    def add(self, source: Source) -> None:
        """Count a worker in."""
        self._live[source] = None

    def end(self, source: Source) -> None:
        """Note that a worker has ended; what it did stays counted."""
        if source in self._live:
            source.read_last()
            del self._live[source]
            self._ended = merge((self._ended, totals(source.families)))

    async def ask(self) -> None:
        """Hear all workers."""
        await asyncio.gather(*(source.ask() for source in tuple(self._live)))

    async def keep_asking(self) -> None:
        """Hear all workers now and then, so that little is lost when one is killed."""
        while True:
            await asyncio.sleep(ASK_SECONDS)
            await self.ask()

    def collect(self, own: Families | None = None) -> Iterator[Metric]:
        """Return the metrics of the edge, `own` of the master included."""
        live = merge(source.families for source in self._live)
        if live:
            self._ended = without_departed(self._ended, live)
        for family in merge((live, self._ended, own or {})).values():
            yield family.metric()


async def ask(path: str, what: str) -> tuple[int, str]:
    """Return the status and body of an HTTP GET over a unix socket.

    Raises:
        OSError: nobody serves there.
        TimeoutError: it takes too long.
        ValueError: what came is no HTTP.

    """
    async with asyncio.timeout(ANSWER_SECONDS):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            # HTTP/1.0: the answer ends with the connection.
            writer.write(f"GET {what} HTTP/1.0\r\nHost: worker\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split(" ", 2)[1]), body
