"""Pushes the metrics of this process: what a registry of prometheus-client says, every few seconds.

The values of one moment wait in memory until the metrics service has them on disk, each stored once; what is too much
is dropped, the oldest first, and counted. Series that end are marked as ended, all of them when the pusher is closed;
those of a process that died are ended by the service when its registration runs out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import grpc
from prometheus_client.registry import Collector

from mesh.api.metrics.v1 import PushRequest, PushResponse
from mesh.clock import Clock, SystemClock
from mesh.discovery.targets import Targets
from mesh.options import require
from mesh.telemetry.pusher import ANSWER_SECONDS, Sinks
from mesh.telemetry.retrying import retry_after
from mesh.telemetry.snapshot import Series, Snapshots

PUSH = "/mesh.metrics.v1.Metrics/Push"
# Samples of one request: with the definitions of their series it stays below what gRPC takes by default.
SAMPLES_A_REQUEST = 2_000
# A stream that has defined so many series, most of them ended, is opened anew.
SERIES_A_STREAM = 100_000
# What a sink may ask for at most.
LONGEST_WAIT = 15.0
_log = logging.getLogger(__name__)
_REFUSED = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION})


@dataclass(frozen=True, slots=True)
class PusherOptions:
    """Bounds; seconds, unless a name says otherwise."""

    interval: float = 10.0
    # Samples that wait while the service is away: at 500 series half an hour, some 3 MB.
    max_waiting_samples: int = 100_000
    # As many as the metrics service takes of one instance.
    max_series: int = 20_000
    # How long the end may take to send what waits.
    close_seconds: float = 2.0

    def __post_init__(self) -> None:
        require(self.interval > 0 and self.close_seconds >= 0, "a pusher's interval must be more than 0 seconds")
        require(self.max_waiting_samples >= 1 and self.max_series >= 1, "a pusher's bounds must be at least 1")


@dataclass(slots=True)
class PushStats:
    """Samples, by what became of them."""

    pushed: int = 0
    # For want of room, or because the end came first.
    dropped: int = 0
    # By the service, or left out since it would: too many series, labels that are none, an absurd time.
    refused: int = 0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Samples of one moment under one sequence number."""

    seq: int
    at_ms: int
    values: Mapping[Series, float]


class MetricsPusher:
    """Use as `async with MetricsPusher(...)`: it pushes for as long as it is open."""

    def __init__(
        self,
        control: str,
        registry: Collector,
        *,
        service: str,
        instance: str,
        options: PusherOptions | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Push what `registry` says to the metrics service at `control`, "HOST:PORT[,...]", as of one instance."""
        self._options = options or PusherOptions()
        self._clock = clock or SystemClock()
        self._sinks = Sinks(control)
        self._targets = Targets(control)
        self._snapshots = Snapshots(registry, {"job": service, "instance": instance}, self._options.max_series)
        name = re.sub(r"[^!-~]", "_", f"{service}/{instance}")
        self._producer = f"{name[:180]}/{secrets.token_hex(8)}"
        self._seq = itertools.count(1)
        # When the last values were taken.
        self._taken_ms = 0
        self._waiting: deque[_Waiting] = deque()
        self._samples = 0
        self._came, self._sent = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._call: Any = None
        # The series that the open stream knows, by number.
        self._refs: dict[Series, int] = {}
        self.stats = PushStats()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._sample()), asyncio.create_task(self._send())]
        return self

    async def __aexit__(self, *_: object) -> None:
        sampling, sending = self._tasks
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
        at_ms = self._now_ms()
        self._take(at_ms)
        self._put(at_ms + 1, self._snapshots.end())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.close_seconds):
                while self._waiting and not sending.done():
                    self._sent.clear()
                    await self._sent.wait()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        self.stats.dropped += self._samples
        await self._sinks.__aexit__()

    async def flush(self) -> None:
        """Push the values as they are now, and return when they are stored."""
        self._take(self._now_ms())
        while self._waiting:
            self._sent.clear()
            await self._sent.wait()

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._take(self._now_ms())
            due = max(due + self._options.interval, loop.time())
            await asyncio.sleep(due - loop.time())

    def _take(self, at_ms: int) -> None:
        """Note the values as they are now, and that what counts and is new was 0 the last time."""
        try:
            values = self._snapshots.take()
        except Exception as error:  # noqa: BLE001 - a collector is anybody's code, and the next time may do
            _log.warning("the metrics of this process cannot be read: %s", error)
            return
        self.stats.refused += self._snapshots.refused
        if self._snapshots.born and self._taken_ms < at_ms:
            # A moment later: a series that ended then has its end there.
            self._put(min(self._taken_ms + 1, at_ms - 1), self._snapshots.born)
        self._put(at_ms, values)
        self._taken_ms = at_ms

    def _put(self, at_ms: int, values: Mapping[Series, float]) -> None:
        rest = iter(values.items())
        while part := dict(itertools.islice(rest, SAMPLES_A_REQUEST)):
            self._waiting.append(_Waiting(next(self._seq), at_ms, part))
            self._samples += len(part)
        while self._samples > self._options.max_waiting_samples and len(self._waiting) > 1:
            # Not the oldest: that one is on its way.
            dropped = self._waiting[1]
            del self._waiting[1]
            self._samples -= len(dropped.values)
            self.stats.dropped += len(dropped.values)
        self._came.set()

    async def _send(self) -> None:
        try:
            while True:
                if not self._waiting:
                    self._came.clear()
                    await self._came.wait()
                    continue
                first = self._waiting[0]
                try:
                    reply = await self._push(first)
                except (grpc.aio.AioRpcError, TimeoutError) as error:
                    await self._close()
                    if not (isinstance(error, grpc.aio.AioRpcError) and error.code() in _REFUSED):
                        await self._pause(error)
                        continue
                    self.stats.refused += len(first.values)  # it would be refused for ever
                else:
                    self._targets.reset()
                    self.stats.refused += reply.rejected
                    self.stats.pushed += len(first.values) - reply.rejected
                self._waiting.popleft()
                self._samples -= len(first.values)
                self._sent.set()
        finally:
            await self._close()

    async def _push(self, waiting: _Waiting) -> PushResponse:
        if len(self._refs) + len(waiting.values) > SERIES_A_STREAM:
            await self._close()
        if self._call is None:
            channel: Any = self._sinks.channel(self._targets.current)
            self._refs = {}
            self._call = channel.stream_stream(PUSH, PushRequest.SerializeToString, PushResponse.FromString)()
        known = self._refs
        definitions = []
        for series in waiting.values:
            if series not in known:
                definitions.append(series.defined(len(known)))
                known[series] = len(known)
        request = PushRequest(
            producer=self._producer,
            seq=waiting.seq,
            series=definitions,
            refs=[known[series] for series in waiting.values],
            times_ms=[waiting.at_ms] * len(waiting.values),
            values=waiting.values.values(),
        )
        async with asyncio.timeout(ANSWER_SECONDS):
            with contextlib.suppress(asyncio.InvalidStateError):  # it has ended: reading says how
                await self._call.write(request)
            reply = await self._call.read()
        if reply is grpc.aio.EOF:
            call = self._call
            raise grpc.aio.AioRpcError(
                await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
            )
        found: PushResponse = reply
        return found

    async def _pause(self, error: Exception) -> None:
        wait = self._targets.move_on()
        asked = retry_after(error) if isinstance(error, grpc.aio.AioRpcError) else None
        await asyncio.sleep(max(wait, min(asked or 0.0, LONGEST_WAIT)))

    async def _close(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
            # Else its end is reported as an error that nobody took note of.
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await call.read()

    def _now_ms(self) -> int:
        return self._clock.wall_ns() // 1_000_000
