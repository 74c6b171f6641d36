"""That a method is said to be unary makes its calls cheaper on grpc.aio. Where it is wrong, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection

from examples.shop.api.v1 import storefront_pb2
from proxy.admin.unary import UnaryLearner
from proxy.call.limits import Limits
from proxy.engines.aio import single
from proxy.engines.aio.channels import Channels
from proxy.engines.aio.claims import UnaryClaims
from proxy.engines.aio.engine import AioEngine
from tests.conformance import grpc_upstream
from tests.conformance.grpc_upstream import GrpcUpstream, UpstreamCall
from tests.conformance.h2_peer import HANG_SECONDS
from tests.conformance.harness import ECHO, METHOD, EdgeUnderTest, connect, run_edge, stream, unary

STOREFRONT = "shop.v1.Storefront"


@pytest.fixture
def calls_made(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the methods that were called the cheap way, with all time for a request to be complete."""
    made: list[bytes] = []

    class Noted(single.SingleCall):
        def __init__(self, channel: grpc.aio.Channel, method: bytes, *rest: Any) -> None:
            made.append(method)
            super().__init__(channel, method, *rest)

    monkeypatch.setattr("proxy.engines.aio.request.GATHER_SECONDS", HANG_SECONDS)
    monkeypatch.setattr("proxy.engines.aio.attempt.SingleCall", Noted)
    return made


def claims(edge: EdgeUnderTest) -> UnaryClaims:
    assert isinstance(edge.engine, AioEngine)
    return edge.engine.claims


def claimed(edge: EdgeUnderTest) -> frozenset[bytes]:
    return claims(edge).methods


@contextlib.asynccontextmanager
async def claiming(
    behaviour: grpc_upstream.Behaviour, method: str = METHOD
) -> AsyncIterator[tuple[EdgeUnderTest, GrpcUpstream]]:
    async with GrpcUpstream(behaviour).serve() as upstream, run_edge("aio") as edge:
        edge.register(upstream.address)
        claims(edge).replace([method.encode()])
        yield edge, upstream


async def test_a_unary_call_is_made_the_cheap_way(calls_made: list[bytes]) -> None:
    big = bytes(300_000)
    async with claiming(grpc_upstream.echo) as (edge, upstream), connect(edge.public) as channel:
        for message in (b"", b"hello", big):
            assert await unary(channel)(message) == message
        assert [call.received for call in upstream.calls] == [[b""], [b"hello"], [big]]
        assert calls_made == [METHOD.encode()] * 3
        assert claimed(edge) == {METHOD.encode()}


async def test_a_status_comes_with_what_belongs_to_it(calls_made: list[bytes]) -> None:
    async def refuse(call: UpstreamCall) -> AsyncIterator[bytes]:
        async for message in call.read():
            if message:
                await call.context.abort(grpc.StatusCode.NOT_FOUND, "no such tea", (("why", "sold"),))
            yield message

    async with claiming(refuse) as (edge, _), connect(edge.public) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(channel)(b"hello")
        assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such tea")
        assert dict(refused.value.trailing_metadata())["why"] == "sold"
        assert len(calls_made) == 1
        assert claimed(edge), "an error says nothing of what the method is"


async def test_many_answers_pass_and_refute_the_claim(calls_made: list[bytes]) -> None:
    more = asyncio.Event()

    async def count(call: UpstreamCall) -> AsyncIterator[bytes]:
        assert [message async for message in call.read()] == [b"go"]
        yield b"one"
        await more.wait()
        yield b"two"
        yield b"three"

    async with claiming(count) as (edge, _), connect(edge.public) as channel:
        for _ in range(2):
            call = stream(channel)()
            await call.write(b"go")
            await call.done_writing()
            assert await call.read() == b"one", "before the second one is there"
            more.set()
            assert [await call.read() for _ in range(3)] == [b"two", b"three", grpc.aio.EOF]
        assert len(calls_made) == 1, "the second call knew better"
        claims(edge).replace([METHOD.encode()])
        assert claimed(edge) == frozenset(), "what was wrong once is not believed again"


async def test_no_answer_passes_and_refutes_the_claim() -> None:
    async def nothing(call: UpstreamCall) -> AsyncIterator[bytes]:
        for message in [message async for message in call.read()][1:]:
            yield message

    async with claiming(nothing) as (edge, _), connect(edge.public) as channel:
        call = stream(channel)()
        await call.write(b"go")
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        assert claimed(edge) == frozenset()


async def test_many_requests_pass(calls_made: list[bytes]) -> None:
    big = bytes(100_000)
    async with claiming(grpc_upstream.echo) as (edge, upstream), connect(edge.public) as channel:
        for messages in ([b"one", b"two"], [big, big, b"end"], []):
            call = stream(channel)()
            for message in messages:
                await call.write(message)
            await call.done_writing()
            assert [message async for message in call] == messages
        assert calls_made == []
        assert [call.received for call in upstream.calls] == [[b"one", b"two"], [big, big, b"end"], []]
        assert claimed(edge), "a client does not tell what the method is"


async def test_a_conversation_goes_on() -> None:
    async with claiming(grpc_upstream.echo) as (edge, _), connect(edge.public) as channel:
        call = stream(channel)()
        for message in (b"one", b"two", b"three"):
            await call.write(message)
            assert await call.read() == message
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_a_deadline_holds_while_the_request_is_awaited() -> None:
    async with claiming(grpc_upstream.hang) as (edge, _), connect(edge.public) as channel:
        call = stream(channel)(timeout=0.04)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_cancelled_call_is_cancelled_upstream(calls_made: list[bytes]) -> None:
    async with claiming(grpc_upstream.hang) as (edge, upstream), connect(edge.public) as channel:
        call = unary(channel)(b"hello")
        (seen,) = await upstream.until_calls(1)
        call.cancel()
        await asyncio.wait_for(seen.ended.wait(), HANG_SECONDS)
        assert seen.cancelled
        assert (await edge.call_record()).cancelled
        assert len(calls_made) == 1


async def test_an_endpoint_that_leaves_finishes_its_calls() -> None:
    go = asyncio.Event()

    async def wait(call: UpstreamCall) -> AsyncIterator[bytes]:
        async for message in call.read():
            await go.wait()
            yield message

    async with claiming(wait) as (edge, upstream), connect(edge.public) as channel:
        call = unary(channel)(b"hello")
        await upstream.until_calls(1)
        edge.deregister(upstream.address)
        await asyncio.sleep(0)
        go.set()
        assert await call == b"hello"


async def test_what_is_unary_is_learnt_by_reflection() -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    reflection.enable_server_reflection((STOREFRONT, reflection.SERVICE_NAME), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    channels = Channels(Limits())
    try:
        async with run_edge("aio") as edge:
            learning = asyncio.create_task(UnaryLearner(edge.state, channels.get, claims(edge)).run())
            edge.register("127.0.0.1:1", service="silent", grpc_service="nobody.v1.Nobody")
            edge.register(address, service="storefront", grpc_service=STOREFRONT)
            async with asyncio.timeout(HANG_SECONDS):
                while not claimed(edge):
                    await asyncio.sleep(0.01)
            methods = storefront_pb2.DESCRIPTOR.services_by_name["Storefront"].methods
            assert claimed(edge) == {
                f"/{STOREFRONT}/{one.name}".encode()
                for one in methods
                if not one.client_streaming and not one.server_streaming
            }
            assert claimed(edge) >= {b"/shop.v1.Storefront/PlaceOrder"}
            assert claimed(edge).isdisjoint({b"/shop.v1.Storefront/Chat", b"/shop.v1.Storefront/WatchOrder"})
            edge.deregister(address)
            async with asyncio.timeout(HANG_SECONDS):
                while claimed(edge):
                    await asyncio.sleep(0.01)
            learning.cancel()
            await asyncio.gather(learning, return_exceptions=True)
    finally:
        await channels.close()
        await server.stop(None)


async def test_what_is_unary_is_learnt_from_the_registration() -> None:
    channels = Channels(Limits())
    try:
        async with run_edge("aio") as edge:
            said = {"unary-methods": f"{ECHO}/Call, {ECHO}/Get, other.v1.Other/Get"}
            edge.register("127.0.0.1:1", metadata=said)
            learning = asyncio.create_task(UnaryLearner(edge.state, channels.get, claims(edge)).run())
            async with asyncio.timeout(HANG_SECONDS):
                while not claimed(edge):
                    await asyncio.sleep(0.01)
            assert claimed(edge) == {METHOD.encode(), f"/{ECHO}/Get".encode()}
            learning.cancel()
            await asyncio.gather(learning, return_exceptions=True)
    finally:
        await channels.close()
