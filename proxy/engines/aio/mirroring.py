"""Copies of requests on their way to another service, each a task that nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque

import grpc

from mesh.resilience import outcome
from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.engines.aio.channels import Channels
from proxy.engines.aio.metadata import to_grpc
from proxy.engines.aio.request import Upstream, write
from proxy.routing.mirror import GATE, LINGER_SECONDS, MARK, MARKED, MAX_BYTES, Mirror
from proxy.upstream.endpoint import Endpoint

_log = logging.getLogger(__name__)


class Copies:
    """The copies under way in an engine."""

    def __init__(self, dispatcher: Dispatcher, channels: Channels) -> None:
        self._dispatcher = dispatcher
        self._channels = channels
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, call: Call) -> Copy | None:
        """Begin the copy of a call, if it is one of those that are copied and there is room."""
        mirror = call.route.mirror if call.route is not None else None
        if mirror is None or not mirror.begin(call):
            return None
        endpoint = mirror.where.targets.pick(call, GATE)
        if endpoint is None:
            mirror.end(ok=False)
            return None
        copy = Copy(call, mirror, endpoint, self._dispatcher, self._channels)
        self._tasks.add(copy.task)
        copy.task.add_done_callback(self._tasks.discard)
        return copy

    async def close(self) -> None:
        """End all of them."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Copy:
    """The copy of one request. Its answer is read and thrown away."""

    def __init__(
        self, call: Call, mirror: Mirror, endpoint: Endpoint, dispatcher: Dispatcher, channels: Channels
    ) -> None:
        self._mirror = mirror
        self._channels = channels
        self._channel = channels.get(endpoint)
        self._method = call.method.decode()
        self._metadata = to_grpc((*call.request_metadata(), (MARK, MARKED)))
        self._time_left = call.time_left(dispatcher.now())
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    def feed(self, message: bytes) -> None:
        """Take a message; what the upstream does not take in time ends the copy."""
        self._waiting.append(message)
        self._bytes += len(message)
        self._news.set()
        if self._bytes > MAX_BYTES:
            self.task.cancel()

    def end(self) -> None:
        """Note that the request is whole."""
        self._ended = True
        self._news.set()

    def let_go(self) -> None:
        """Note that the call is over: the copy has a while to end, if it has the whole request."""
        if not self._ended:
            self.task.cancel()
        elif not self.task.done():
            timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.task.cancel)
            self.task.add_done_callback(lambda _: timer.cancel())

    async def _run(self) -> None:
        ok = False
        try:
            ok = await self._sent()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass  # by its upstream, its time, the engine's end, or because the call gave up
        except Exception:  # noqa: BLE001 - whatever it is, it is nobody's trouble
            _log.exception("a copy failed")
        finally:
            self._mirror.end(ok=ok)
            self._waiting.clear()

    async def _sent(self) -> bool:
        """Send the request and read the answer; tells whether all went well."""
        if not await self._channels.connect(self._channel, self._time_left):
            return False
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(self._method)
        upstream = method(metadata=grpc.aio.Metadata(*self._metadata), timeout=self._time_left)
        sending = asyncio.create_task(self._send(upstream))
        try:
            async for _ in upstream:
                pass
            return (await upstream.code()).value[0] == outcome.OK
        finally:
            upstream.cancel()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, upstream: Upstream) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.InternalError):
            await upstream.wait_for_connection()
            while True:
                while self._waiting:
                    message = self._waiting[0]
                    await write(upstream, message)
                    self._waiting.popleft()
                    self._bytes -= len(message)
                if self._ended:
                    break
                self._news.clear()
                await self._news.wait()
            await upstream.done_writing()
