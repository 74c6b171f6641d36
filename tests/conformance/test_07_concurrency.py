"""7. The upstream's MAX_CONCURRENT_STREAMS is obeyed, by more connections rather than by waiting."""

from __future__ import annotations

import asyncio

import pytest
from h2.settings import SettingCodes

from tests.conformance import grpc_wire
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, echo, reply
from tests.conformance.harness import METHOD, run_edge


@pytest.mark.parametrize("limit", [1, 2])
async def test_limit_is_never_exceeded_and_every_call_ends_well(engine: str, limit: int) -> None:
    most: dict[int, int] = {}

    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        open_now = [one for one in upstream.streams if one.peer is stream.peer and not one.peer.h2_closed(one.id)]
        most[id(stream.peer)] = max(most.get(id(stream.peer), 0), len(open_now))
        await reply(stream, *grpc_wire.parse(stream.data))

    upstream = H2Upstream(script, {SettingCodes.MAX_CONCURRENT_STREAMS: limit})
    async with upstream.serve(), run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD, b"warm up")).status == 0  # the limit is known from here on
            replies = await asyncio.gather(*(client.call(METHOD, b"%d" % number) for number in range(20)))
        assert [one.messages for one in replies] == [[b"%d" % number] for number in range(20)]
        assert all(one.status == 0 for one in replies)
        assert max(most.values()) <= limit
        await edge.settled()


async def test_calls_beyond_the_limit_open_connections_instead_of_waiting(engine: str) -> None:
    release = asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        if grpc_wire.parse(stream.data) == [b"long"]:
            await release.wait()
        await echo(stream)

    upstream = H2Upstream(script, {SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    async with upstream.serve(), run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            await client.call(METHOD, b"warm up")
            calls = [asyncio.ensure_future(client.call(METHOD, b"long")) for _ in range(3)]
            try:
                async with asyncio.timeout(3):  # only a failing engine waits
                    await upstream.until_streams(4)
                assert len(upstream.connections) == 3
            finally:
                release.set()
                replies = await asyncio.gather(*calls)
            assert [one.status for one in replies] == [0, 0, 0]
        await edge.settled()
