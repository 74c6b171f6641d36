"""4. The deadline: counted from the headers on, what is left goes upstream, and it ends the call on both hops."""

from __future__ import annotations

import grpc
import pytest
from h2.errors import ErrorCodes

from mesh.resilience import outcome
from mesh.resilience.deadline import parse_timeout
from proxy.call.reason import Reason
from proxy.interceptors.deadline import DeadlineOptions
from proxy.stack import StackOptions
from tests.conformance import grpc_wire
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, echo, hang
from tests.conformance.harness import METHOD, connect, run_edge, unary

# An engine may round to three digits.
ROUNDING = 1.01

MALFORMED = [b"123456789S", b"-1S", b"1", b"S", b"1x", b"1.5S", b" 1S", b""]


async def test_upstream_gets_what_is_left(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with connect(edge.public) as channel:
            await unary(channel)(b"", timeout=60)
        record = await edge.call_record()
        assert record.deadline is not None
        left = parse_timeout(upstream.streams[0].header(b"grpc-timeout") or b"")
        assert left is not None
        assert 0 < left <= (record.deadline - record.started_at) * ROUNDING


@pytest.mark.parametrize("timeout", [b"1H", b"60M", b"3600S", b"3600000m", b"99999999u", b"99999999m"])
async def test_every_unit_is_read_and_at_most_8_digits_are_sent(engine: str, timeout: bytes) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, metadata=((b"grpc-timeout", timeout),))
        assert reply.status == 0
        await edge.settled()
        sent, given = upstream.streams[0].header(b"grpc-timeout") or b"", parse_timeout(timeout)
        left = parse_timeout(sent)
        assert left is not None
        assert given is not None
        assert len(sent) <= 9
        assert given * 0.9 < left <= given * ROUNDING


async def test_no_deadline_of_the_client_is_none_upstream(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with connect(edge.public) as channel:
            await unary(channel)(b"")
        record = await edge.call_record()
        assert upstream.streams[0].header(b"grpc-timeout") is None
        assert record.deadline is None


@pytest.mark.parametrize("timeout", MALFORMED)
async def test_malformed_timeout_is_refused(engine: str, timeout: bytes) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, metadata=((b"grpc-timeout", timeout),))
            if timeout.strip() != timeout and reply.reset_code is not None:
                return  # malformed by HTTP/2 itself (RFC 9113, 8.2.1), before there is a call
            assert (reply.status, reply.reason) == (outcome.INVALID_ARGUMENT, "malformed_request")
            assert reply.correlation_id
        await edge.settled()
        assert upstream.streams == []


@pytest.mark.parametrize("timeout", MALFORMED)
async def test_malformed_timeout_harms_no_other_call(engine: str, timeout: bytes) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            await client.call(METHOD, metadata=((b"grpc-timeout", timeout),))
            assert (await client.call(METHOD)).status == 0
        await edge.settled()


async def test_passed_deadline_reaches_a_grpc_client_and_resets_the_upstream(engine: str) -> None:
    async with H2Upstream(hang).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with connect(edge.public) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await unary(channel)(b"", timeout=0.2)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        (seen,) = await upstream.until_streams(1)
        assert await seen.until_reset() == ErrorCodes.CANCEL
        record = await edge.call_record()
        assert (record.status, record.reason) == (outcome.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED)


async def test_passed_deadline_is_told_with_its_reason(engine: str) -> None:
    """A client without a timer of its own, and a deadline in the middle of a stream."""

    async def script(stream: Stream) -> None:
        stream.send_headers(grpc_wire.response_headers((b"x-begun", b"1")))
        await hang(stream)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            for _ in range(10):  # a machine that stalls an engine at the wrong moment may cost it the last word
                reply = await client.call(METHOD, b"", metadata=((b"grpc-timeout", b"200m"),))
                assert reply.status == outcome.DEADLINE_EXCEEDED
                if reply.reason:
                    break
            assert reply.reason == "deadline_exceeded"
            assert reply.correlation_id
            await client.ping()
        assert await upstream.streams[0].until_reset() == ErrorCodes.CANCEL
        assert {record.status for record in await edge.settled()} == {outcome.DEADLINE_EXCEEDED}


async def test_deadline_that_passed_already_reaches_no_upstream(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, metadata=((b"grpc-timeout", b"1n"),))
            assert reply.status == outcome.DEADLINE_EXCEEDED
            await client.ping()
        for record in await edge.settled():  # an engine may answer before there is anything to record
            assert (record.status, record.reason) == (outcome.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED)
        assert upstream.streams == []


async def test_configured_bound_ends_a_call_without_a_deadline(engine: str) -> None:
    options = StackOptions(deadline=DeadlineOptions(max_seconds=0.2))
    async with H2Upstream(hang).serve() as upstream, run_edge(engine, stack=options) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD)
            assert (reply.status, reply.reason) == (outcome.DEADLINE_EXCEEDED, "deadline_exceeded")
            assert reply.correlation_id
        assert await upstream.streams[0].until_reset() == ErrorCodes.CANCEL
        await edge.settled()


async def test_configured_bound_ends_a_call_that_a_slow_client_stalls(engine: str) -> None:
    """The deadline holds too while the edge waits for the client to read."""

    async def endless(stream: Stream) -> None:
        stream.send_headers(grpc_wire.response_headers())
        while True:
            await stream.send_data(grpc_wire.frame(bytes(10_000)))

    options = StackOptions(deadline=DeadlineOptions(max_seconds=0.3))
    async with H2Upstream(endless).serve() as upstream, run_edge(engine, stack=options) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public, acknowledge=False) as client:
            client.start(grpc_wire.request_headers(METHOD), end=True)
            await upstream.until_streams(1)
            assert await upstream.streams[0].until_reset() == ErrorCodes.CANCEL
            record = await edge.call_record()
            assert record.status == outcome.DEADLINE_EXCEEDED
