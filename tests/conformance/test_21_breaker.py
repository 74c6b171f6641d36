"""The circuit breaker: opens on failures of the upstream alone, refuses at once, heals through probes."""

from __future__ import annotations

import asyncio

import pytest
from h2.errors import ErrorCodes

from mesh.resilience import outcome
from mesh.resilience.breaker import BreakerOptions, BreakerState
from mesh.testing import ManualClock
from proxy.upstream.endpoint import Endpoint
from tests.conformance import grpc_wire
from tests.conformance.h2_client import H2Client, Reply, h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, echo, hang, reply
from tests.conformance.harness import METHOD, run_edge

OPTIONS = BreakerOptions(minimum_calls=4, open_seconds=5.0, half_open_probes=2)


class Moody:
    """An upstream that answers with the status that it is told."""

    def __init__(self) -> None:
        self.code = outcome.OK

    async def __call__(self, stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        await reply(stream, code=self.code)


def _state(endpoint: Endpoint) -> BreakerState:
    return endpoint.breaker.state


async def _calls(client: H2Client, count: int) -> list[Reply]:
    return [await client.call(METHOD, b"x") for _ in range(count)]


async def test_opens_refuses_without_an_attempt_and_heals_through_probes(engine: str) -> None:
    clock, moody = ManualClock(), Moody()
    async with H2Upstream(moody).serve() as upstream, run_edge(engine, clock=clock, breaker=OPTIONS) as edge:
        (endpoint,) = edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            moody.code = outcome.UNAVAILABLE
            assert [(one.status, one.reason) for one in await _calls(client, 4)] == [(outcome.UNAVAILABLE, "")] * 4
            assert _state(endpoint) is BreakerState.OPEN
            for refused in await _calls(client, 3):
                assert (refused.status, refused.reason) == (outcome.UNAVAILABLE, "breaker_open")
                assert refused.correlation_id
            assert len(upstream.streams) == 4, "no attempt is made"

            clock.advance(5.0)
            assert (await client.call(METHOD)).reason == "", "a probe goes through"
            moody.code = outcome.OK
            assert [one.status for one in await _calls(client, 1)] == [outcome.UNAVAILABLE], "it failed: open again"
            clock.advance(5.0)
            assert [one.status for one in await _calls(client, 5)] == [0] * 5
            assert _state(endpoint) is BreakerState.CLOSED
        await edge.settled()
        assert len(upstream.streams) == 4 + 1 + 5


async def test_no_more_probes_than_permitted_at_a_time(engine: str) -> None:
    clock, release = ManualClock(), asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        if grpc_wire.parse(stream.data) == [b"x"]:
            await reply(stream, code=outcome.INTERNAL)
        else:
            await release.wait()
            await reply(stream)

    async with H2Upstream(script).serve() as upstream, run_edge(engine, clock=clock, breaker=OPTIONS) as edge:
        (endpoint,) = edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            await _calls(client, 4)
            clock.advance(5.0)
            probes = [asyncio.ensure_future(client.call(METHOD, b"probe")) for _ in range(2)]
            await upstream.until_streams(6)
            assert (await client.call(METHOD, b"probe")).reason == "breaker_open"
            release.set()
            assert [one.status for one in await asyncio.gather(*probes)] == [0, 0]
            assert _state(endpoint) is BreakerState.CLOSED
        await edge.settled()


async def test_cancelled_probe_gives_its_permit_back(engine: str) -> None:
    clock, moody = ManualClock(), Moody()

    async def script(stream: Stream) -> None:
        await (hang(stream) if stream.header(b"x-hang") else moody(stream))

    async with H2Upstream(script).serve() as upstream, run_edge(engine, clock=clock, breaker=OPTIONS) as edge:
        (endpoint,) = edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            moody.code = outcome.UNAVAILABLE
            await _calls(client, 4)
            clock.advance(5.0)
            for number in range(5, 11):  # many more than there are permits
                probe = client.start(grpc_wire.request_headers(METHOD, (b"x-hang", b"1")))
                await upstream.until_streams(number)
                probe.reset(ErrorCodes.CANCEL)
                await edge.settled()
            assert _state(endpoint) is BreakerState.HALF_OPEN
            moody.code = outcome.OK
            assert [one.status for one in await _calls(client, 2)] == [0, 0]
            assert _state(endpoint) is BreakerState.CLOSED
        await edge.settled()


@pytest.mark.parametrize("code", [2, 4, 13, 14, 15])
async def test_failures_of_the_upstream_count(engine: str, code: int) -> None:
    moody = Moody()
    async with H2Upstream(moody).serve() as upstream, run_edge(engine, breaker=OPTIONS) as edge:
        (endpoint,) = edge.register(upstream.address)
        moody.code = code
        async with h2_connect(edge.public) as client:
            await _calls(client, 4)
        await edge.settled()
        assert _state(endpoint) is BreakerState.OPEN


@pytest.mark.parametrize("code", [1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 16])
async def test_mistakes_of_the_client_never_count(engine: str, code: int) -> None:
    moody = Moody()
    async with H2Upstream(moody).serve() as upstream, run_edge(engine, breaker=OPTIONS) as edge:
        (endpoint,) = edge.register(upstream.address)
        moody.code = code
        async with h2_connect(edge.public) as client:
            assert [one.status for one in await _calls(client, 6)] == [code] * 6
        await edge.settled()
        assert (endpoint.breaker.state, endpoint.failures) == (BreakerState.CLOSED, 0)


async def test_cancellation_by_the_client_never_counts(engine: str) -> None:
    async with H2Upstream(hang).serve() as upstream, run_edge(engine, breaker=OPTIONS) as edge:
        (endpoint,) = edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            calls = [client.start(grpc_wire.request_headers(METHOD)) for _ in range(8)]
            await upstream.until_streams(8)
            for call in calls:
                call.reset(ErrorCodes.CANCEL)
            await edge.settled()
        assert (endpoint.breaker.state, endpoint.failures) == (BreakerState.CLOSED, 0)
        assert endpoint.breaker.window.calls == 0


async def test_deadlines_that_pass_upstream_count(engine: str) -> None:
    async with H2Upstream(hang).serve() as upstream, run_edge(engine, breaker=OPTIONS) as edge:
        (endpoint,) = edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            while endpoint.calls < 4:  # a slow machine may let a deadline pass before there is an attempt
                answer = await client.call(METHOD, metadata=((b"grpc-timeout", b"100m"),))
                assert answer.status == outcome.DEADLINE_EXCEEDED
                await edge.settled()
        await edge.settled()
        assert _state(endpoint) is BreakerState.OPEN


async def test_calls_go_to_the_endpoint_whose_breaker_is_closed(engine: str) -> None:
    bad = Moody()
    bad.code = outcome.UNAVAILABLE
    async with (
        H2Upstream(bad).serve() as ill,
        H2Upstream(echo).serve() as well,
        run_edge(engine, breaker=OPTIONS, clock=ManualClock()) as edge,
    ):
        edge.register(ill.address, well.address)
        async with h2_connect(edge.public) as client:
            await _calls(client, 8)
            assert len(ill.streams) == 4
            assert [one.status for one in await _calls(client, 6)] == [0] * 6
        assert len(ill.streams) == 4
        await edge.settled()
