"""A client that sends what no gRPC library would."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import unquote

from tests.conformance import grpc_wire
from tests.conformance.h2_peer import Headers, Peer, PeerGoneError, Settings, Stream


@dataclass(frozen=True)
class Reply:
    """All that came back on one stream."""

    headers: Headers
    messages: list[bytes]
    trailers: Headers
    reset_code: int | None
    connection_lost: bool

    @property
    def trailers_only(self) -> bool:
        return not self.trailers and self._all.get(b"grpc-status") is not None

    @property
    def status(self) -> int:
        """The gRPC status; -1 when none came."""
        return int(self._all.get(b"grpc-status", b"-1"))

    @property
    def message(self) -> str:
        return unquote(self._all.get(b"grpc-message", b"").decode())

    @property
    def reason(self) -> str:
        return self._all.get(b"mesh-reason", b"").decode()

    @property
    def correlation_id(self) -> str:
        return dict(self.headers).get(b"x-correlation-id", b"").decode()

    @property
    def _all(self) -> dict[bytes, bytes]:
        return {**dict(self.headers), **dict(self.trailers)}


class H2Client(Peer):
    """One connection to the edge."""

    def start(self, headers: Headers, *, end: bool = False) -> Stream:
        """Open a stream with exactly these headers."""
        stream_id = self.h2.get_next_available_stream_id()
        stream = self.streams[stream_id] = Stream(self, stream_id)
        stream.send_headers(headers, end=end)
        return stream

    async def call(self, path: str, *messages: bytes, metadata: Headers = ()) -> Reply:
        """Make one whole call."""
        stream = self.start(grpc_wire.request_headers(path, *metadata))
        with contextlib.suppress(PeerGoneError):  # an edge may answer before it has all, and want no more
            await stream.send_data(grpc_wire.frames(messages), end=True)
        return await self.reply(stream)

    async def reply(self, stream: Stream) -> Reply:
        """Wait for the end of a stream, whichever it is, and return what came."""
        await stream.until_over()
        return Reply(
            headers=stream.headers,
            messages=grpc_wire.parse(stream.data),
            trailers=stream.trailers,
            reset_code=stream.reset_code,
            connection_lost=self.lost,
        )


@contextlib.asynccontextmanager
async def h2_connect(
    address: str, *, settings: Settings | None = None, acknowledge: bool = True
) -> AsyncIterator[H2Client]:
    """Connect to HOST:PORT. With `acknowledge` off the client never reads on: its windows stay shut."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_connection(
        lambda: H2Client(client=True, settings=settings, acknowledge=acknowledge), host, int(port)
    )
    try:
        yield peer
    finally:
        peer.cut()
        await peer.until(lambda: peer.lost)
