"""15. Connections age, and calls follow the registry as instances come and go."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from mesh.discovery.model import Health
from mesh.resilience import outcome
from proxy.call.limits import Limits
from tests.conformance import grpc_wire
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, echo
from tests.conformance.harness import METHOD, run_edge


async def test_old_connection_is_told_to_go_and_its_calls_finish(engine: str) -> None:
    limits = Limits(max_connection_age_seconds=0.2)
    async with H2Upstream(echo).serve() as upstream, run_edge(engine, limits=limits) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            call = client.start(grpc_wire.request_headers(METHOD))
            await call.send_data(grpc_wire.frame(b"before"))
            await client.until(lambda: bool(client.goaways))
            await call.send_data(grpc_wire.frame(b"after"), end=True)
            reply = await client.reply(call)
            assert (reply.status, reply.messages) == (0, [b"before", b"after"])
            await client.until(lambda: client.lost)
        async with h2_connect(edge.public) as again:
            assert (await again.call(METHOD)).status == 0
        await edge.settled()


async def test_connections_live_as_long_as_they_like_by_default(engine: str) -> None:
    assert Limits().max_connection_age_seconds is None
    async with run_edge(engine) as edge, h2_connect(edge.public) as client:
        await client.ping()
        assert client.goaways == []


async def test_new_instance_gets_its_share_of_calls_at_once(engine: str) -> None:
    async with H2Upstream(echo).serve() as old, H2Upstream(echo).serve() as new, run_edge(engine) as edge:
        edge.register(old.address)
        async with h2_connect(edge.public) as client:
            for _ in range(4):
                await client.call(METHOD)
            edge.register(new.address)
            for _ in range(10):
                assert (await client.call(METHOD)).status == 0
        assert (len(old.streams), len(new.streams)) == (4 + 5, 5)
        await edge.settled()


async def test_calls_spread_evenly_whatever_the_clients_connection(engine: str) -> None:
    async with (
        H2Upstream(echo).serve() as one,
        H2Upstream(echo).serve() as two,
        H2Upstream(echo).serve() as three,
        run_edge(engine) as edge,
    ):
        edge.register(one.address, two.address, three.address)
        async with h2_connect(edge.public) as first, h2_connect(edge.public) as second:
            for _ in range(15):
                await asyncio.gather(first.call(METHOD), second.call(METHOD))
        assert Counter(len(upstream.streams) for upstream in (one, two, three)) == {10: 3}
        await edge.settled()


async def test_instance_that_left_gets_no_new_calls_and_finishes_its_old_ones(engine: str) -> None:
    async with H2Upstream(echo).serve() as old, H2Upstream(echo).serve() as new, run_edge(engine) as edge:
        (endpoint,) = edge.register(old.address)
        async with h2_connect(edge.public) as client:
            held = client.start(grpc_wire.request_headers(METHOD))
            await held.send_data(grpc_wire.frame(b"held"))
            await old.until_streams(1)
            edge.register(new.address)
            edge.deregister(old.address)
            for _ in range(4):
                assert (await client.call(METHOD)).status == 0
            assert (len(old.streams), len(new.streams)) == (1, 4)
            held.end()
            assert (await client.reply(held)).messages == [b"held"]
        await old.connections[0].until(lambda: old.connections[0].lost)  # nobody needs it any more
        await edge.settled()
        assert endpoint.in_flight == 0


@pytest.mark.parametrize("health", [Health.STARTING, Health.NOT_SERVING, Health.DRAINING])
async def test_instance_that_does_not_serve_gets_no_calls(engine: str, health: Health) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address, health=health)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD)
            assert (reply.status, reply.reason) == (outcome.UNAVAILABLE, "no_endpoint")
            edge.register(upstream.address, health=Health.SERVING)
            assert (await client.call(METHOD)).status == 0
        await edge.settled()
        assert len(upstream.streams) == 1


async def test_upstream_that_ages_its_connections_costs_no_call(engine: str) -> None:
    """A graceful GOAWAY in the middle of a stream: it finishes, the next call goes to a new connection."""

    async def script(stream: Stream) -> None:
        stream.peer.goaway(2**31 - 1)
        await stream.until(lambda: stream.ended)
        stream.peer.goaway(stream.id)
        await echo(stream)
        stream.peer.transport.close()

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            for number in range(5):
                reply = await client.call(METHOD, b"%d" % number)
                assert (reply.status, reply.messages) == (0, [b"%d" % number])
        assert len(upstream.connections) == 5
        await edge.settled()
