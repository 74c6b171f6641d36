"""14. A lost connection is UNAVAILABLE with its reason, and the endpoint's books notice."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from mesh.resilience import outcome
from tests.conformance import grpc_wire
from tests.conformance.h2_client import Reply, h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, Script, echo, hang
from tests.conformance.harness import METHOD, run_edge

CALLERS = 8


@contextlib.contextmanager
def nobody_there() -> Iterator[str]:
    """Hold a port that refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


async def _cut_before_headers(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.peer.cut()


async def _cut_after_headers(stream: Stream) -> None:
    stream.send_headers(grpc_wire.response_headers((b"x-begun", b"1")))
    await stream.until(lambda: stream.ended)
    await stream.peer.ping()
    stream.peer.cut()


async def _close_politely(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.peer.transport.close()


async def _goaway_and_close(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.peer.goaway(stream.id, 2)
    stream.peer.transport.close()


@pytest.mark.parametrize("script", [_cut_before_headers, _cut_after_headers, _close_politely, _goaway_and_close])
async def test_connection_lost_during_a_call(engine: str, script: Script) -> None:
    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        (endpoint,) = edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, b"request")
            assert (reply.status, reply.reason) == (outcome.UNAVAILABLE, "upstream_reset")
            assert reply.correlation_id
            assert endpoint.instance_id in reply.message
        await edge.settled()
        assert (endpoint.calls, endpoint.failures, endpoint.breaker.window.failures) == (1, 1, 1)


async def test_nobody_listens(engine: str) -> None:
    with nobody_there() as address:
        async with run_edge(engine) as edge:
            (endpoint,) = edge.register(address)
            async with h2_connect(edge.public) as client:
                reply = await client.call(METHOD, b"request")
                assert (reply.status, reply.reason) == (outcome.UNAVAILABLE, "upstream_connect_failed")
                assert reply.correlation_id
            await edge.settled()
            assert (endpoint.calls, endpoint.failures, endpoint.breaker.window.failures) == (1, 1, 1)


async def test_call_goes_to_another_endpoint_when_one_cannot_be_reached(engine: str) -> None:
    with nobody_there() as address:
        async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
            dead, alive = sorted(edge.register(address, upstream.address), key=lambda one: one.address != address)
            async with h2_connect(edge.public) as client:
                replies = [await client.call(METHOD, b"%d" % number, bytes(1000)) for number in range(6)]
            assert [reply.messages for reply in replies] == [[b"%d" % number, bytes(1000)] for number in range(6)]
            assert alive.calls == 6
            assert dead.failures == dead.calls > 0
            assert all(record.status == 0 for record in await edge.settled())


async def test_upstream_that_comes_back_gets_calls_again(engine: str) -> None:
    upstream = H2Upstream(echo)
    async with upstream.serve(), run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD, b"before")).status == 0
            upstream.connections[0].cut()
            reply = Reply([], [], [], None, connection_lost=False)
            async with asyncio.timeout(20):
                while reply.status != 0:
                    reply = await client.call(METHOD, b"after")
            assert reply.messages == [b"after"]
        await edge.settled()
        assert len(upstream.connections) == 2


async def test_idle_connection_that_the_upstream_closed_costs_no_call(engine: str) -> None:
    upstream = H2Upstream(echo)
    async with upstream.serve(), run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            for number in range(5):
                assert (await client.call(METHOD, b"%d" % number)).status == 0
                peer = upstream.connections[-1]
                peer.goaway(2**31 - 1)
                peer.transport.close()
                await peer.until(lambda peer=peer: peer.lost)  # type: ignore[misc]
                await client.ping()  # the edge has had its turn to notice
        assert [record.status for record in await edge.settled()] == [0] * 5


async def test_killing_one_of_two_upstreams_under_load_loses_only_its_calls(engine: str) -> None:
    """Calls in flight on the one that dies may fail, all others not; none is answered by both."""
    seen: dict[bytes, int] = {}

    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        (message,) = grpc_wire.parse(stream.data)
        seen[message] = seen.get(message, 0) + 1
        await echo(stream)

    doomed, other = H2Upstream(script), H2Upstream(script)
    async with doomed.serve(), other.serve(), run_edge(engine) as edge:
        edge.register(doomed.address, other.address)
        async with h2_connect(edge.public) as client:
            replies: dict[int, Reply] = {}

            async def caller(first: int) -> None:
                for number in range(first, first + 40):
                    replies[number] = await client.call(METHOD, b"%d" % number)
                    if number == 20:
                        await doomed.kill()

            await asyncio.gather(*(caller(100 * number) for number in range(CALLERS)))
        lost = [reply for reply in replies.values() if reply.status != 0]
        assert len(replies) == 40 * CALLERS
        assert len(lost) <= CALLERS, "no more can be in flight at a time"
        assert {reply.reason for reply in lost} <= {"upstream_reset"}
        assert max(seen.values()) == 1
        failed = [record for record in await edge.settled() if record.status != 0]
        assert {record.endpoint.address for record in failed if record.endpoint} <= {doomed.address}


async def test_hanging_calls_of_a_killed_upstream_end_at_once(engine: str) -> None:
    upstream = H2Upstream(hang)
    async with upstream.serve(), run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            calls = [client.start(grpc_wire.request_headers(METHOD)) for _ in range(10)]
            await upstream.until_streams(10)
            await upstream.kill()
            replies = [await client.reply(call) for call in calls]
        assert {(reply.status, reply.reason) for reply in replies} == {(outcome.UNAVAILABLE, "upstream_reset")}
        await edge.settled()
