"""8. Flow control from end to end: a slow reader stalls the writer, and memory stays bounded."""

from __future__ import annotations

import asyncio

from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from tests.conformance import grpc_wire
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, echo
from tests.conformance.harness import METHOD, run_edge

MESSAGE = 16 * 1024
# More than all the windows on the way together.
MUCH = 8 * 1024 * 1024


class Endless:
    """Sends until it is not let; counts the bytes."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, stream: Stream) -> None:
        if stream.header(b"x-echo"):
            await echo(stream)
            return
        stream.send_headers(grpc_wire.response_headers())
        message = grpc_wire.frame(bytes(MESSAGE))
        while self.sent < 2 * MUCH:
            await stream.send_data(message)
            self.sent += len(message)
            await stream.peer.drained()


async def _stalled(endless: Endless) -> int:
    """Wait until the upstream can send no more, and return what it could send."""
    before = -1
    while before != endless.sent:
        before = endless.sent
        await asyncio.sleep(0.3)  # nothing tells that nothing comes any more
    return before


async def test_client_that_reads_nothing_stalls_an_endless_upstream(engine: str) -> None:
    endless = Endless()
    async with H2Upstream(endless).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public, acknowledge=False) as client:
            call = client.start(grpc_wire.request_headers(METHOD), end=True)
            await call.until(lambda: len(call.data) >= 65_535)  # its window is full
            assert await _stalled(endless) < MUCH
            call.reset(ErrorCodes.CANCEL)
            assert await upstream.streams[0].until_reset() == ErrorCodes.CANCEL
            await edge.settled()


async def test_stalled_client_does_not_stall_another_on_the_same_upstream(engine: str) -> None:
    endless = Endless()
    async with H2Upstream(endless).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public, acknowledge=False) as stalled, h2_connect(edge.public) as other:
            calls = [stalled.start(grpc_wire.request_headers(METHOD), end=True) for _ in range(5)]
            await _stalled(endless)
            reply = await other.call(METHOD, bytes(100_000), metadata=((b"x-echo", b"1"),))
            assert (reply.status, reply.messages) == (0, [bytes(100_000)])
            for call in calls:
                call.reset(ErrorCodes.CANCEL)
            await edge.settled()


async def test_upstream_that_reads_nothing_stalls_the_client(engine: str) -> None:
    async def deaf(stream: Stream) -> None:
        await stream.until(lambda: False)

    async with H2Upstream(deaf, acknowledge=False).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            call = client.start(grpc_wire.request_headers(METHOD))
            progress = Endless()

            async def upload() -> None:
                while progress.sent < 2 * MUCH:
                    await call.send_data(grpc_wire.frame(bytes(MESSAGE)))
                    progress.sent += MESSAGE
                    await client.drained()

            sending = asyncio.ensure_future(upload())
            try:
                (seen,) = await upstream.until_streams(1)
                await seen.until(lambda: len(seen.data) >= 65_535)
                assert await _stalled(progress) < MUCH
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            call.reset(ErrorCodes.CANCEL)
            assert await seen.until_reset() == ErrorCodes.CANCEL
            await edge.settled()


async def test_reader_that_goes_on_gets_everything_in_order(engine: str) -> None:
    """Windows much smaller than the messages, on both sides."""
    messages = [bytes([number]) * 100_000 for number in range(10)]
    small = {SettingCodes.INITIAL_WINDOW_SIZE: 1000}
    async with H2Upstream(echo, small).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public, settings=small) as client:
            reply = await client.call(METHOD, *messages)
        assert (reply.status, reply.messages) == (0, messages)
        record = await edge.call_record()
        assert (record.bytes_in, record.bytes_out) == (1_000_000, 1_000_000)
