"""10. Headers, trailers and messages over their limits are refused a call at a time, never by the connection."""

from __future__ import annotations

import pytest

from mesh.resilience import outcome
from proxy.call.limits import Limits
from proxy.call.reason import Reason
from tests.conformance import grpc_wire
from tests.conformance.h2_client import H2Client, h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, echo, reply
from tests.conformance.harness import METHOD, run_edge

HEALTH = "/grpc.health.v1.Health/Check"
LIMITS = Limits(max_message_bytes=64 * 1024, max_header_bytes=4096, max_headers=20)
# Over the limit; far over it, where an engine may be in need of other means; and absurdly so.
TOO_LARGE = [5000, 14_000, 60_000]


async def _goes_on(client: H2Client) -> None:
    """Check that the connection and other calls are unharmed."""
    assert (await client.call(METHOD, b"fine")).messages == [b"fine"]
    assert client.goaways == []


@pytest.mark.parametrize("size", TOO_LARGE[:2])
@pytest.mark.parametrize("path", [METHOD, HEALTH, "/no.such.Service/Call"])
async def test_large_request_headers_are_refused(engine: str, size: int, path: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine, limits=LIMITS) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(path, b"", metadata=((b"x-large", b"a" * size),))
            assert (reply.status, reply.reason) == (outcome.RESOURCE_EXHAUSTED, "headers_too_large")
            assert reply.correlation_id
            await _goes_on(client)
        refused, _ = await edge.settled()
        assert refused.reason is Reason.HEADERS_TOO_LARGE
        assert len(upstream.streams) == 1


async def test_absurdly_large_request_headers_harm_no_other_call(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine, limits=LIMITS) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, metadata=((b"x-large", b"a" * 60_000),))
            assert reply.status == outcome.RESOURCE_EXHAUSTED or reply.reset_code is not None
            await _goes_on(client)
        await edge.settled()
        assert len(upstream.streams) == 1


async def test_many_request_headers_are_refused(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine, limits=LIMITS) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, metadata=[(b"x-%d" % number, b"") for number in range(30)])
            assert (reply.status, reply.reason) == (outcome.RESOURCE_EXHAUSTED, "headers_too_large")
            await _goes_on(client)
        await edge.settled()


async def test_headers_at_the_limit_pass(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine, limits=LIMITS) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            # Room for the pseudo headers, where an engine counts them.
            reply = await client.call(METHOD, metadata=((b"x-large", b"a" * 3500),))
        assert reply.status == 0
        assert upstream.streams[0].header(b"x-large") == b"a" * 3500
        await edge.settled()


@pytest.mark.parametrize("where", ["headers", "trailers", "trailers-only"])
@pytest.mark.parametrize("size", TOO_LARGE)
async def test_large_response_metadata_is_an_error_of_that_call(engine: str, where: str, size: int) -> None:
    large = (b"x-large", b"a" * size)

    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        if grpc_wire.parse(stream.data) == [b"fine"]:
            await reply(stream, b"fine")
        elif where == "trailers-only":
            stream.send_headers(grpc_wire.response_headers(*grpc_wire.status_headers(5, "gone", large)), end=True)
        else:
            stream.send_headers(grpc_wire.response_headers(*([large] if where == "headers" else [])))
            more = [large] if where == "trailers" else []
            stream.send_headers(grpc_wire.status_headers(0, "", *more), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine, limits=LIMITS) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, b"large")
            assert (answer.status, answer.reason) == (outcome.RESOURCE_EXHAUSTED, "headers_too_large")
            await _goes_on(client)
        await edge.settled()
        assert len(upstream.connections) == 1, "the upstream's connection goes on too"


async def test_message_at_the_limit_passes_both_ways(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine, limits=LIMITS) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            largest = b"m" * LIMITS.max_message_bytes
            assert (await client.call(METHOD, largest)).messages == [largest]
        await edge.settled()


async def test_large_message_of_the_client_is_refused(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine, limits=LIMITS) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, b"m" * (LIMITS.max_message_bytes + 1))
            assert (answer.status, answer.reason) == (outcome.RESOURCE_EXHAUSTED, "message_too_large")
            assert answer.correlation_id
            await _goes_on(client)
        refused, _ = await edge.settled()
        assert refused.reason is Reason.MESSAGE_TOO_LARGE
        assert [one.data for one in upstream.streams if one.ended] == [grpc_wire.frame(b"fine")]


async def test_very_large_message_of_the_client_harms_no_other_call(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine, limits=LIMITS) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD))
            await stream.send_data(grpc_wire.frame(b"first") + b"\x00\xff\xff\xff\xff" + bytes(1000))
            answer = await client.reply(stream)
            assert answer.status == outcome.RESOURCE_EXHAUSTED
            await _goes_on(client)
        await edge.settled()
        assert [one.data for one in upstream.streams if one.ended] == [grpc_wire.frame(b"fine")]


async def test_very_large_message_of_the_client_is_told_with_its_reason(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine, limits=LIMITS) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD))
            await stream.send_data(b"\x00\xff\xff\xff\xff" + bytes(1000))
            answer = await client.reply(stream)
            assert (answer.status, answer.reason) == (outcome.RESOURCE_EXHAUSTED, "message_too_large")
        record = await edge.call_record()
        assert record.status == outcome.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("size", [LIMITS.max_message_bytes + 1, 3 * LIMITS.max_message_bytes])
async def test_large_message_of_the_upstream_is_refused(engine: str, size: int) -> None:
    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        fine = grpc_wire.parse(stream.data) == [b"fine"]
        await reply(stream, b"fine" if fine else b"m" * size)

    async with H2Upstream(script).serve() as upstream, run_edge(engine, limits=LIMITS) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, b"")
            assert (answer.status, answer.reason) == (outcome.RESOURCE_EXHAUSTED, "message_too_large")
            assert answer.messages == []
            await _goes_on(client)
        refused, _ = await edge.settled()
        assert refused.reason is Reason.MESSAGE_TOO_LARGE
        assert edge.endpoints[0].failures == 0, "a large message is no failure of the endpoint"


async def test_calls_over_the_edges_limit_are_refused_at_once(engine: str) -> None:
    async def script(stream: Stream) -> None:
        if stream.header(b"x-hang"):
            await stream.until(lambda: False)
        await echo(stream)

    async with H2Upstream(script).serve() as upstream, run_edge(engine, limits=Limits(max_calls_in_flight=2)) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            hanging = [client.start(grpc_wire.request_headers(METHOD, (b"x-hang", b"1"))) for _ in range(2)]
            await upstream.until_streams(2)
            for path in (METHOD, HEALTH):
                answer = await client.call(path, b"")
                assert (answer.status, answer.reason) == (outcome.UNAVAILABLE, "overloaded")
            for stream in hanging:
                stream.reset(8)
            await edge.settled()
            assert (await client.call(METHOD, b"again")).status == 0
        await edge.settled()
