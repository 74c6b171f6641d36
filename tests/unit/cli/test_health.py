"""How a server is followed, against real servers in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh.cli.target import health as target_health
from mesh.cli.target.health import CHANNEL_OPTIONS, HealthFollower

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAME = "a.v1.A"


class Hangs(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Serves, and then does not answer any more."""

    def __init__(self) -> None:
        self.hangs = False

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield health_pb2.HealthCheckResponse(status=SERVING)
        await asyncio.Event().wait()

    async def Check(self, request: Any, context: Any) -> Any:
        if self.hangs:
            await asyncio.Event().wait()
        return health_pb2.HealthCheckResponse(status=SERVING)


class Heard:
    """What a follower has reported."""

    def __init__(self) -> None:
        self.reports: list[bool] = []
        self._news = asyncio.Event()

    def __call__(self, serving: bool) -> None:  # noqa: FBT001 - the follower's word
        self.reports.append(serving)
        self._news.set()

    async def next(self, *reports: bool) -> None:
        """Wait until exactly these were reported so far."""
        while len(self.reports) < len(reports):
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 30)
        assert self.reports == list(reports)


@asynccontextmanager
async def served(servicer: Any = None, *, port: int = 0, **options: int) -> AsyncIterator[int]:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0), *((f"grpc.{k}", v) for k, v in options.items())))
    if servicer is not None:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)


@asynccontextmanager
async def following(port: int, *names: str) -> AsyncIterator[Heard]:
    heard = Heard()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
        task = asyncio.create_task(HealthFollower(channel, names, heard).run())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_the_whole_and_every_name_count_and_unknown_names_do_not() -> None:
    servicer = health.aio.HealthServicer()
    async with served(servicer) as port, following(port, NAME, "un.v1.Known") as heard:
        await heard.next(True)
        await servicer.set(NAME, NOT_SERVING)
        await heard.next(True, False)
        await servicer.set("", NOT_SERVING)
        await servicer.set(NAME, SERVING)
        await servicer.set("", SERVING)
        await heard.next(True, False, True)


async def test_a_server_that_says_so_from_the_start_was_never_serving() -> None:
    servicer = health.aio.HealthServicer()
    await servicer.set(NAME, NOT_SERVING)
    async with served(servicer) as port, following(port, NAME) as heard:
        await heard.next(False)


async def test_without_health_it_serves_while_it_answers() -> None:
    async with served() as port:
        pass
    async with following(port, NAME) as heard:
        await heard.next(False)
        async with served(port=port):
            await heard.next(False, True)
        await heard.next(False, True, False)


async def test_a_server_that_hangs_is_not_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_health, "PROBE_SECONDS", 0.02)
    monkeypatch.setattr(target_health, "PROBE_TIMEOUT", 0.5)
    servicer = Hangs()
    async with served(servicer) as port, following(port) as heard:
        await heard.next(True)
        servicer.hangs = True
        await heard.next(True, False)
        servicer.hangs = False
        await heard.next(True, False, True)


async def test_a_server_that_ages_its_connections_goes_on_serving() -> None:
    aged = asyncio.Event()

    class Counts(health.aio.HealthServicer):  # type: ignore[misc]
        watches = 0

        async def Watch(self, request: Any, context: Any) -> None:
            Counts.watches += 1
            if Counts.watches > 2:
                aged.set()
            await super().Watch(request, context)

    aging = served(Counts(), max_connection_age_ms=100, max_connection_age_grace_ms=50)
    async with aging as port, following(port) as heard:
        await asyncio.wait_for(aged.wait(), 30)
        await heard.next(True)
