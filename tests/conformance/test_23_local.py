"""What the edge answers itself passes the same pipeline: ids, records, limits and drain."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2

from mesh.resilience import outcome
from proxy.call.reason import Reason
from tests.conformance import grpc_wire
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_upstream import H2Upstream, echo
from tests.conformance.harness import connect, run_edge, stream, unary

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
SERVING = health_pb2.HealthCheckResponse(status="SERVING").SerializeToString()
NOT_SERVING = health_pb2.HealthCheckResponse(status="NOT_SERVING").SerializeToString()
UNKNOWN = health_pb2.HealthCheckResponse(status="SERVICE_UNKNOWN").SerializeToString()


def _ask(service: str) -> bytes:
    return bytes(health_pb2.HealthCheckRequest(service=service).SerializeToString())


async def test_health_of_the_edge(engine: str) -> None:
    async with run_edge(engine) as edge, connect(edge.public) as channel:
        call = unary(channel, CHECK)(_ask(""), metadata=(("x-correlation-id", "mine"),))
        assert await call == SERVING
        assert dict(await call.initial_metadata())["x-correlation-id"] == "mine"
        record = await edge.call_record()
        assert (record.status, record.correlation_id, record.attempts) == (0, b"mine", 0)


async def test_health_of_an_unknown_service_is_not_found(engine: str) -> None:
    async with run_edge(engine) as edge, connect(edge.public) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(channel, CHECK)(_ask("no.such.Service"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "x-correlation-id" in dict(caught.value.initial_metadata())
        record = await edge.call_record()
        assert (record.status, record.reason) == (5, None)


async def test_health_watch_follows_the_registry(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge, connect(edge.public) as channel:
        call = stream(channel, WATCH)()
        await call.write(_ask("conform.v1.Echo"))
        await call.done_writing()
        assert await call.read() == UNKNOWN
        edge.register(upstream.address)
        assert await call.read() == SERVING
        edge.deregister(upstream.address)
        assert await call.read() == NOT_SERVING
        call.cancel()
        record = await edge.call_record()
        assert (record.status, record.cancelled) == (outcome.CANCELLED, True)


async def test_unknown_method_of_a_local_service_is_unimplemented(engine: str) -> None:
    async with run_edge(engine) as edge:
        async with h2_connect(edge.public) as client:
            reply = await client.call("/grpc.health.v1.Health/Whatever", b"")
        assert (reply.status, reply.reason) == (outcome.UNIMPLEMENTED, "no_route")
        assert reply.correlation_id
        await edge.settled()


async def test_malformed_request_of_a_local_service_harms_nobody(engine: str) -> None:
    async with run_edge(engine) as edge:
        async with h2_connect(edge.public) as client:
            reply = await client.call(CHECK, b"\xff\xff\xff")
            assert (reply.status, reply.reason) == (outcome.INVALID_ARGUMENT, "malformed_request")
            assert (await client.call(CHECK, _ask(""))).messages == [SERVING]
        await edge.settled()


async def test_local_call_without_a_message_is_an_error_of_that_call(engine: str) -> None:
    async with run_edge(engine) as edge:
        async with h2_connect(edge.public) as client:
            nothing = await client.reply(client.start(grpc_wire.request_headers(CHECK), end=True))
            assert (nothing.status, nothing.reason) == (outcome.INVALID_ARGUMENT, "malformed_request")
            assert (await client.call(CHECK, _ask(""))).status == 0
        await edge.settled()


async def test_watchers_do_not_hold_up_the_drain(engine: str) -> None:
    """They would watch for ever: they hear that the edge drains, and are ended."""
    async with run_edge(engine) as edge, connect(edge.public) as channel:
        call = stream(channel, WATCH)()
        await call.write(_ask(""))
        await call.done_writing()
        assert await call.read() == SERVING
        edge.state.drain()
        assert await call.read() == NOT_SERVING
        async with asyncio.timeout(30):
            await edge.engine.stop(3600)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        record = await edge.call_record()
        assert (record.status, record.reason) == (outcome.UNAVAILABLE, Reason.DRAINING)


@pytest.mark.parametrize(
    ("method", "content_type", "status", "said"),
    [
        (b"GET", b"", 405, "answered with HTTP 405: GET is no gRPC"),
        (b"POST", b"application/json", 415, "answered with HTTP 415: POST of application/json is no gRPC"),
    ],
)
async def test_what_is_no_grpc_is_noted(
    engine: str, method: bytes, content_type: bytes, status: int, said: str
) -> None:
    async with run_edge(engine) as edge, h2_connect(edge.public) as client:
        headers = [
            (b":method", method),
            (b":scheme", b"http"),
            (b":path", b"/" + b"a" * 500),
            (b":authority", b"e.test"),
        ]
        given = [(b"content-type", content_type)] if content_type else []
        reply = await client.reply(client.start([*headers, *given], end=True))
        assert dict(reply.headers)[b":status"] == b"%d" % status
        record = await edge.call_record()
        assert (record.status, record.reason, record.message) == (outcome.UNKNOWN, Reason.NO_GRPC, said)
        assert record.method == b"/" + b"a" * 255
        assert edge.stack.metrics.calls_total == 1
