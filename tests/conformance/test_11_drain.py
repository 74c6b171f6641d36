"""11. Drain: GOAWAY, finish what is under way, lose no call."""

from __future__ import annotations

import asyncio

import pytest
from h2.errors import ErrorCodes

from mesh.resilience import outcome
from proxy.call.reason import Reason
from tests.conformance import grpc_upstream, grpc_wire
from tests.conformance.grpc_upstream import GrpcUpstream
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import PeerGoneError, Stream
from tests.conformance.h2_upstream import H2Upstream, echo, hang
from tests.conformance.harness import METHOD, connect, run_edge, stream

GRACE = 20.0


async def test_calls_under_way_finish(engine: str) -> None:
    release = asyncio.Event()

    async def script(stream: Stream) -> None:
        stream.send_headers(grpc_wire.response_headers((b"x-begun", b"1")))
        await release.wait()
        await stream.send_data(grpc_wire.frame(b"done"))
        stream.send_headers(grpc_wire.status_headers(0), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as one, h2_connect(edge.public) as two:
            calls = [(peer, peer.start(grpc_wire.request_headers(METHOD), end=True)) for peer in (one, one, two)]
            await upstream.until_streams(3)
            stopping = asyncio.ensure_future(edge.engine.stop(GRACE))
            for peer in (one, two):
                await peer.until(lambda peer=peer: bool(peer.goaways))  # type: ignore[misc]
            release.set()
            replies = [await peer.reply(call) for peer, call in calls]
            await stopping
        assert [(reply.status, reply.messages) for reply in replies] == [(0, [b"done"])] * 3
        assert [record.status for record in await edge.settled()] == [0] * 3


async def test_bidirectional_stream_under_way_goes_on_to_its_end(engine: str) -> None:
    async with GrpcUpstream(grpc_upstream.echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with connect(edge.public) as channel:
            call = stream(channel)()
            await call.write(b"before")
            assert await call.read() == b"before"
            stopping = asyncio.ensure_future(edge.engine.stop(GRACE))
            for number in range(20):
                await call.write(b"%d" % number)
                assert await call.read() == b"%d" % number
            assert not stopping.done()
            await call.done_writing()
            assert await call.read() is grpc_upstream.EOF
            await stopping
        assert (await edge.call_record()).status == 0


async def test_call_that_crosses_the_goaway_is_answered_or_safe_to_repeat(engine: str) -> None:
    """It is served, or lies above the last stream that GOAWAY names, or is refused: never lost in doubt."""
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            held = client.start(grpc_wire.request_headers(METHOD))
            await upstream.until_streams(1)
            stopping = asyncio.ensure_future(edge.engine.stop(GRACE))
            await client.until(lambda: bool(client.goaways))
            late = client.start(grpc_wire.request_headers(METHOD), end=True)
            await client.ping()
            held.end()
            assert (await client.reply(held)).status == 0
            await stopping
            await client.until(lambda: client.lost)
            last = min(frame.last_stream_id for frame in client.goaways)  # type: ignore[attr-defined]
            served = late.ended and late.reset_code is None
            assert served or late.id > last or late.reset_code == ErrorCodes.REFUSED_STREAM
        await edge.settled()


async def test_new_connections_are_refused(engine: str) -> None:
    async with run_edge(engine) as edge:
        await edge.engine.stop(GRACE)
        with pytest.raises(OSError, match=r"(?i)refused|connect call failed"):
            async with h2_connect(edge.public):
                pass


async def test_call_over_the_grace_is_ended_and_told_as_draining(engine: str) -> None:
    async with H2Upstream(hang).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            call = client.start(grpc_wire.request_headers(METHOD))
            await upstream.until_streams(1)
            await edge.engine.stop(0.1)
            answer = await client.reply(call)
            assert answer.status in (outcome.UNAVAILABLE, -1)
            assert await upstream.streams[0].until_reset() == ErrorCodes.CANCEL
        record = await edge.call_record()
        assert (record.status, record.reason) == (outcome.UNAVAILABLE, Reason.DRAINING)


async def test_idle_connection_is_closed(engine: str) -> None:
    async with run_edge(engine) as edge, h2_connect(edge.public) as client:
        await client.ping()
        await edge.engine.stop(GRACE)
        await client.until(lambda: client.lost)
        assert client.goaways
        with pytest.raises(PeerGoneError):
            await client.ping()
