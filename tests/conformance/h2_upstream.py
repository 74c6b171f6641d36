"""An upstream that misbehaves on order: a script runs for each stream that arrives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.conformance import grpc_wire
from tests.conformance.h2_peer import HANG_SECONDS, Peer, PeerGoneError, Settings, Stream

Script = Callable[[Stream], Awaitable[None]]


class H2Upstream:
    """A server on a free port of 127.0.0.1. Keeps all connections and all streams that it ever had."""

    def __init__(self, script: Script, settings: Settings | None = None, *, acknowledge: bool = True) -> None:
        self.script = script
        self.settings = dict(settings or {})
        self.acknowledge = acknowledge
        self.connections: list[Peer] = []
        self.streams: list[Stream] = []
        self.address = ""
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[H2Upstream]:
        """Listen while the context is open. An error in a script comes up at its end."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            await self.kill()
        if self._errors:
            raise self._errors[0]

    async def kill(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for peer in self.connections:
            peer.cut()
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def until_streams(self, count: int) -> list[Stream]:
        """Wait until so many streams have arrived, over all connections, and return them."""
        async with asyncio.timeout(HANG_SECONDS):
            while len(self.streams) < count:
                await self._news.wait()
        return self.streams

    def _accept(self) -> Peer:
        peer = Peer(client=False, settings=self.settings, acknowledge=self.acknowledge, on_stream=self._begin)
        self.connections.append(peer)
        return peer

    def _begin(self, stream: Stream) -> None:
        self.streams.append(stream)
        task = asyncio.ensure_future(self._run(stream))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _run(self, stream: Stream) -> None:
        try:
            await self.script(stream)
        except PeerGoneError:
            pass  # the edge let go of the stream: tests look at what came
        except Exception as error:  # noqa: BLE001 - raised at the end of serve()
            self._errors.append(error)


async def echo(stream: Stream) -> None:
    """Wait for the whole request and send it back with status OK."""
    await stream.until(lambda: stream.ended)
    await reply(stream, *grpc_wire.parse(stream.data))


async def reply(stream: Stream, *messages: bytes, code: int = 0, message: str = "") -> None:
    """Send a complete answer."""
    stream.send_headers(grpc_wire.response_headers())
    await stream.send_data(grpc_wire.frames(messages))
    stream.send_headers(grpc_wire.status_headers(code, message), end=True)


async def hang(stream: Stream) -> None:
    """Read and never answer."""
    await stream.until(lambda: False)
