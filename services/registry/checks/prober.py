"""Asks one instance by grpc.health.v1."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.api.registry.v1 import HealthCheck
from services.registry.checks.policy import Answer

_Status: TypeAlias = health_pb2.HealthCheckResponse
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    # An answer is a few bytes: whoever sends more is no health service.
    ("grpc.max_receive_message_length", 4096),
)


class NoWatchError(Exception):
    """The instance has no Watch, or has ended it. Not for people: checks go on without it."""


class Prober:
    """One connection to one instance. Use as `async with Prober(...) as prober`."""

    def __init__(self, address: str, check: HealthCheck) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub = health_pb2_grpc.HealthStub(self._channel)
        self._request = health_pb2.HealthCheckRequest(service=check.grpc_service)
        self._timeout = check.timeout_seconds

    async def __aenter__(self) -> Prober:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def check(self) -> Answer:
        """Ask once."""
        try:
            return answer(await self._stub.Check(self._request, timeout=self._timeout))
        except grpc.aio.AioRpcError as error:
            return failure(error, self._timeout)

    def watch(self) -> Watch:
        """Return what the instance tells by itself, as it comes."""
        return Watch(self._stub.Watch(self._request))


class Watch:
    """A stream of answers."""

    def __init__(self, call: Any) -> None:
        self._call = call
        # It outlives a wait: a read that is cancelled takes the whole stream with it.
        self._reading: asyncio.Task[Any] | None = None

    async def next(self, seconds: float) -> Answer | None:
        """Return the next answer; None when none comes in time. Raises `NoWatchError`."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait((self._reading,), timeout=seconds)
        if not done:
            return None
        reading, self._reading = self._reading, None
        try:
            response = reading.result()
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            raise NoWatchError from error
        if response is grpc.aio.EOF:
            raise NoWatchError  # the end of the stream
        return answer(response)

    async def close(self) -> None:
        self._call.cancel()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)


def answer(response: _Status) -> Answer:
    if response.status == _Status.SERVING:
        return Answer(good=True)
    name = _Status.ServingStatus.Name(response.status) if response.status in _Status.ServingStatus.values() else "?"
    return Answer(good=False, reason=f"it answers {name}")


def failure(error: grpc.aio.AioRpcError, timeout: float) -> Answer:
    """Return what a failed check means: an instance that has no health service cannot be found well by it."""
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Answer(good=False, spoke=False, reason=f"it does not answer within {timeout:g} s")
    if code is grpc.StatusCode.UNAVAILABLE:
        return Answer(good=False, spoke=False, reason="it cannot be reached")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Answer(good=False, spoke=False, reason="it has no grpc.health.v1: register it without a check")
    if code is grpc.StatusCode.NOT_FOUND:
        return Answer(good=False, spoke=False, reason="its health service does not know the name that is asked for")
    return Answer(good=False, spoke=False, reason=f"its health check fails with {code.name}")
