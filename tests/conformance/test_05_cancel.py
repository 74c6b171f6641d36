"""5. Cancellation crosses both hops at once, and the upstream's handler really stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from h2.errors import ErrorCodes

from mesh.resilience import outcome
from tests.conformance import grpc_upstream, grpc_wire
from tests.conformance.grpc_upstream import GrpcUpstream, UpstreamCall
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, hang
from tests.conformance.harness import METHOD, connect, run_edge, stream, unary


async def test_handler_of_a_hanging_upstream_is_cancelled(engine: str) -> None:
    async with GrpcUpstream(grpc_upstream.hang).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with connect(edge.public) as channel:
            call = unary(channel)(b"")
            (seen,) = await upstream.until_calls(1)
            call.cancel()
            await asyncio.wait_for(seen.ended.wait(), 20)
            assert seen.cancelled
            record = await edge.call_record()
        assert (record.status, record.reason, record.cancelled) == (outcome.CANCELLED, None, True)


async def test_handler_of_a_server_stream_is_cancelled(engine: str) -> None:
    async def endless(call: UpstreamCall) -> AsyncIterator[bytes]:
        while True:
            yield bytes(1000)

    async with GrpcUpstream(endless).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with connect(edge.public) as channel:
            call = stream(channel)()
            assert await call.read() == bytes(1000)
            call.cancel()
            await asyncio.wait_for(upstream.calls[0].ended.wait(), 20)
            record = await edge.call_record()
        assert (record.status, record.cancelled) == (outcome.CANCELLED, True)


async def test_client_connection_that_breaks_cancels_its_calls(engine: str) -> None:
    async with H2Upstream(hang).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            for _ in range(3):
                client.start(grpc_wire.request_headers(METHOD))
            await upstream.until_streams(3)
            client.cut()
            assert [await seen.until_reset() for seen in upstream.streams] == [ErrorCodes.CANCEL] * 3
        assert [one.status for one in await edge.settled()] == [outcome.CANCELLED] * 3
        assert not upstream.connections[0].lost


@pytest.mark.parametrize("attempt", range(5))
async def test_client_that_breaks_off_in_the_middle_of_a_stream(engine: str, attempt: int) -> None:
    async def endless(stream: Stream) -> None:
        stream.send_headers(grpc_wire.response_headers())
        while True:
            await stream.send_data(grpc_wire.frame(bytes(10_000)))
            await stream.peer.drained()

    async with H2Upstream(endless).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            call = client.start(grpc_wire.request_headers(METHOD), end=True)
            await call.until(lambda: len(call.data) >= 100_000 * attempt + 1)
            client.cut()
            assert await upstream.streams[0].until_reset() == ErrorCodes.CANCEL
            record = await edge.call_record()
        assert (record.status, record.cancelled) == (outcome.CANCELLED, True)


@pytest.mark.parametrize("attempt", range(10))
async def test_cancelled_upload_is_not_taken_for_a_finished_one(engine: str, attempt: int) -> None:
    """An upstream that saw the end of the stream would act on half of it."""
    async with H2Upstream(hang).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            upload = client.start(grpc_wire.request_headers(METHOD))
            await upload.send_data(grpc_wire.frame(b"half"))
            (seen,) = await upstream.until_streams(1)
            await seen.until(lambda: seen.data == grpc_wire.frame(b"half"))
            upload.reset(ErrorCodes.CANCEL)
            assert await seen.until_reset() == ErrorCodes.CANCEL
            assert not seen.ended
        await edge.settled()


async def test_upload_of_a_lost_client_is_not_taken_for_a_finished_one(engine: str) -> None:
    async with H2Upstream(hang).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            upload = client.start(grpc_wire.request_headers(METHOD))
            await upload.send_data(grpc_wire.frame(b"half"))
            (seen,) = await upstream.until_streams(1)
            await seen.until(lambda: seen.data == grpc_wire.frame(b"half"))
            client.cut()
            assert await seen.until_reset() == ErrorCodes.CANCEL
            assert not seen.ended
        await edge.settled()


async def test_cancel_while_the_edge_waits_for_the_client_to_read(engine: str) -> None:
    async def endless(stream: Stream) -> None:
        stream.send_headers(grpc_wire.response_headers())
        while True:
            await stream.send_data(grpc_wire.frame(bytes(10_000)))

    async with H2Upstream(endless).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public, acknowledge=False) as client:
            call = client.start(grpc_wire.request_headers(METHOD), end=True)
            await call.until(lambda: len(call.data) >= 60_000)
            call.reset(ErrorCodes.CANCEL)
            assert await upstream.streams[0].until_reset() == ErrorCodes.CANCEL
            record = await edge.call_record()
        assert (record.status, record.cancelled) == (outcome.CANCELLED, True)


async def test_cancel_while_the_edge_connects(engine: str) -> None:
    """The connection never comes about: nobody accepts it."""
    async with Silent() as silent, run_edge(engine) as edge:
        edge.register(silent.address)
        async with h2_connect(edge.public) as client:
            call = client.start(grpc_wire.request_headers(METHOD), end=True)
            await asyncio.wait_for(silent.accepted.wait(), 20)
            call.reset(ErrorCodes.CANCEL)
            record = await edge.call_record()
        assert record.status in (outcome.CANCELLED, outcome.UNAVAILABLE)


class Silent:
    """A listener that accepts connections and says nothing."""

    async def __aenter__(self) -> Silent:
        self.accepted = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _accept(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.accepted.set()
