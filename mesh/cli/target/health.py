"""Follows how a server is: by grpc.health.v1 where it has it, and always by whether it answers at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

CHECK_SECONDS = 1.0
RETRY_SECONDS = 0.5
# A process that hangs keeps its connection and its last word: this asks whether it still answers.
PROBE_SECONDS = 5.0
PROBE_TIMEOUT = 5.0
# Streams that one server is bothered with at most.
MAX_NAMES = 32

# Find a server that is back within a second, however long it was away.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)

_Status = health_pb2.HealthCheckResponse
_NO_OPINION = (_Status.SERVICE_UNKNOWN, None)


class HealthFollower:
    """Calls `report` with True when the server is serving and False when it is not, first and at every change.

    It is serving when it answers and says of none of its names that it is not serving. "" is the whole server; a name
    it says nothing of does not count.
    """

    def __init__(self, channel: grpc.aio.Channel, names: Sequence[str], report: Callable[[bool], None]) -> None:
        self._channel = channel
        self._stub = health_pb2_grpc.HealthStub(channel)
        self._names = ("", *names)[:MAX_NAMES]
        self._report = report
        self._reachable = False
        self._responsive = True
        # What it said of each name; a name that is missing was not answered for since the server was away.
        self._said: dict[str, int | None] = {}
        self._reported: bool | None = None

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_connection())
            tasks.create_task(self._probe())
            for name in self._names:
                tasks.create_task(self._follow(name))

    @property
    def serving(self) -> bool:
        """What is known now."""
        said_all = all(name in self._said for name in self._names)
        good = all(status in (_Status.SERVING, *_NO_OPINION) for status in self._said.values())
        return self._reachable and self._responsive and said_all and good

    def _changed(self) -> None:
        # Before the first answers are in there is nothing to report, unless the server is away.
        undecided = self._reachable and self._responsive and len(self._said) < len(self._names)
        if not undecided and self.serving is not self._reported:
            self._reported = self.serving
            self._report(self.serving)

    async def _follow_connection(self) -> None:
        while True:
            state = self._channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                self._reachable = True
                self._changed()
            elif state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                # Only now: a connection that ended may be a server that ages its connections.
                self._reachable = False
                self._said.clear()
                self._changed()
            await self._channel.wait_for_state_change(state)

    async def _follow(self, name: str) -> None:
        """Watch one name; where the server has no Watch, ask every second; where it has no health, leave it open."""
        follow = self._watch
        while True:
            try:
                await follow(name)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED and follow == self._watch:
                    follow = self._check
                    continue
                if error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND):
                    self._say(name, None)
                elif error.code() is not grpc.StatusCode.UNAVAILABLE:
                    # It answers, and will not tell us: as good as no health service.
                    self._say(name, None)
            await asyncio.sleep(RETRY_SECONDS)

    async def _watch(self, name: str) -> None:
        async for answer in self._stub.Watch(health_pb2.HealthCheckRequest(service=name), wait_for_ready=True):
            self._say(name, answer.status)

    async def _check(self, name: str) -> None:
        while True:
            answer = await self._stub.Check(
                health_pb2.HealthCheckRequest(service=name), timeout=PROBE_TIMEOUT, wait_for_ready=True
            )
            self._say(name, answer.status)
            await asyncio.sleep(CHECK_SECONDS)

    def _say(self, name: str, status: int | None) -> None:
        self._said[name] = status
        self._changed()

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                await self._stub.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT)
                self._responsive = True
            except grpc.aio.AioRpcError as error:
                # Any other status is an answer.
                self._responsive = error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
            self._changed()
