"""13. Hop-by-hop headers are stripped, `te: trailers` is kept, the user agent is passed on."""

from __future__ import annotations

import pytest

from mesh.resilience import outcome
from tests.conformance import grpc_wire
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, echo
from tests.conformance.harness import METHOD, run_edge

HOP = [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"]


async def test_upstream_gets_what_grpc_asks_for(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD)).status == 0
        (seen,) = upstream.streams
        assert seen.header(b":method") == b"POST"
        assert seen.header(b":path") == METHOD.encode()
        assert seen.header(b":scheme") == b"http"
        assert seen.header(b":authority")
        assert seen.header(b"te") == b"trailers"
        assert (seen.header(b"content-type") or b"").startswith(b"application/grpc")
        names = [name for name, _ in seen.headers]
        assert len(names) == len(set(names)), "nothing is sent twice"
        await edge.settled()


@pytest.mark.parametrize("name", HOP)
async def test_connection_level_header_does_not_reach_the_upstream(engine: str, name: bytes) -> None:
    """HTTP/2 forbids them: the call may be refused or go on without them."""
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            await client.call(METHOD, metadata=((name, b"x-secret"),))
            assert (await client.call(METHOD, b"next")).status == 0
        assert [one for one in upstream.streams if one.header(name) is not None] == []
        await edge.settled()


async def test_connection_level_header_of_the_upstream_does_not_reach_the_client(engine: str) -> None:
    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        stream.send_headers(grpc_wire.response_headers((b"connection", b"close"), (b"x-mine", b"1")))
        stream.send_headers(grpc_wire.status_headers(0), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD)
            assert b"connection" not in dict(reply.headers)
        await edge.settled()


async def test_user_agent_is_passed_on(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD, metadata=((b"user-agent", b"my-client/1.0"),))).status == 0
        assert b"my-client/1.0" in (upstream.streams[0].header(b"user-agent") or b"")
        await edge.settled()


async def test_reply_carries_no_reserved_header_of_the_upstream_twice(engine: str) -> None:
    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        stream.send_headers(grpc_wire.response_headers((b"x-correlation-id", b"of-the-upstream")))
        stream.send_headers(grpc_wire.status_headers(0, "", (b"x-last", b"1")), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, metadata=((b"x-correlation-id", b"of-the-client"),))
        assert [value for name, value in reply.headers if name == b"x-correlation-id"] == [b"of-the-client"]
        names = [name for name, _ in [*reply.headers, *reply.trailers]]
        assert names.count(b"grpc-status") == names.count(b"content-type") == 1
        await edge.settled()


BAD_VALUES = [b"caf\xc3\xa9", b"\xff\xfe", b"a\x01b", b"tab\tinside", b"line\nfeed", b"nul\x00"]


@pytest.mark.parametrize("value", BAD_VALUES)
async def test_malformed_metadata_value_is_refused_and_no_fault_of_the_upstream(engine: str, value: bytes) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, metadata=((b"x-bad", value),))
            refused = (reply.status, reply.reason) == (outcome.INVALID_ARGUMENT, "malformed_request")
            assert refused or reply.reset_code is not None, "HTTP/2 itself forbids some of them"
            assert (await client.call(METHOD, b"next")).status == 0
        assert len(upstream.streams) == 1
        assert edge.endpoints[0].failures == 0
        await edge.settled()


BAD_REQUESTS = [
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", METHOD.encode()), (b":authority", b"a")],
    [(b":method", b"POST"), (b":scheme", b"http"), (b":path", METHOD.encode()), (b":authority", b"a")],
    grpc_wire.request_headers("no-slash"),
    grpc_wire.request_headers("/"),
    grpc_wire.request_headers("/conform.v1.Echo"),
    grpc_wire.request_headers("/conform.v1.Echo/Call/more"),
]


@pytest.mark.parametrize("headers", BAD_REQUESTS, ids=["get", "no-content-type", "no-slash", "slash", "short", "long"])
async def test_request_that_is_no_call_reaches_no_upstream(engine: str, headers: list[tuple[bytes, bytes]]) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(headers, end=True)
            reply = await client.reply(stream)
            served = reply.status == outcome.OK
            assert not served or headers is BAD_REQUESTS[1], "some take a call for one by its path alone"
            assert len(upstream.streams) == int(served)
            assert (await client.call(METHOD, b"next")).status == 0
        await edge.settled()
