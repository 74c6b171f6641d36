"""Mirrored requests: whole, marked, bounded, and without any effect on the call."""

from __future__ import annotations

import asyncio
from typing import Any

from h2.errors import ErrorCodes

from mesh.resilience import outcome
from proxy.routing.mirror import MAX_BYTES
from tests.conformance import grpc_wire
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, echo, hang, reply
from tests.conformance.harness import METHOD, EdgeUnderTest, run_edge


def mirrored(edge: EdgeUnderTest, **mirror: Any) -> None:
    edge.configure(routes=[{"match": {"methods": [METHOD]}, "mirror": {"service": "shadow", **mirror}}])


def shadow(edge: EdgeUnderTest, address: str) -> None:
    edge.register(address, service="shadow", grpc_service="conform.v1.Echo", public=True)


def counts(edge: EdgeUnderTest) -> Any:
    found = edge.state.tables["public"].find(METHOD.encode())
    assert found is not None
    assert found.mirror is not None
    return found.mirror.counts


async def settled(edge: EdgeUnderTest) -> None:
    """Wait until no copy is under way."""
    async with asyncio.timeout(30):
        while counts(edge).in_flight:
            await asyncio.sleep(0.01)


async def test_a_copy_is_whole_marked_and_no_call_of_the_client(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, H2Upstream(echo).serve() as copies, run_edge(engine) as edge:
        edge.register(upstream.address)
        shadow(edge, copies.address)
        mirrored(edge)
        async with h2_connect(edge.public) as client:
            for messages in ((b"one",), (b"one", b"two" * 9000, b""), ()):
                answer = await client.call(METHOD, *messages, metadata=((b"x-own", b"1"), (b"x-b-bin", b"AAE")))
                assert (answer.status, answer.messages) == (0, list(messages))
            streams = await copies.until_streams(3)
            await settled(edge)
        for original, copy in zip(upstream.streams, streams, strict=True):
            assert (copy.data, copy.ended) == (original.data, True)
            assert copy.header(b"mesh-mirror") == b"1"
            assert original.header(b"mesh-mirror") is None
            for name in (b"x-own", b"x-b-bin", b"x-correlation-id"):
                assert copy.header(name) == original.header(name)
        calls = await edge.settled()
        assert [call.route.service for call in calls if call.route] == ["echo"] * 3
        assert (counts(edge).sent, counts(edge).failed, counts(edge).dropped) == (3, 0, 0)
        assert [one.calls for one in edge.endpoints if one.service == "shadow"] == [0]


async def test_whatever_the_shadow_does_the_call_does_not_notice(engine: str) -> None:
    async def misbehave(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        kind = stream.header(b"x-kind")
        if kind == b"fail":
            await reply(stream, code=outcome.INTERNAL)
        elif kind == b"reset":
            stream.reset(ErrorCodes.INTERNAL_ERROR)
        elif kind == b"large":
            await reply(stream, b"x" * 300_000, b"y" * 300_000)
        elif kind == b"cut":
            stream.peer.cut()

    async with H2Upstream(echo).serve() as upstream, H2Upstream(misbehave).serve() as copies, run_edge(engine) as edge:
        edge.register(upstream.address)
        shadow(edge, copies.address)
        mirrored(edge)
        async with h2_connect(edge.public) as client:
            for kind in (b"fail", b"reset", b"large", b"cut", b"fail"):
                answer = await client.call(METHOD, b"x", metadata=((b"x-kind", kind),))
                assert (answer.status, answer.messages) == (0, [b"x"])
                await settled(edge)
            # Nobody is there any more.
            await copies.kill()
            for _ in range(3):
                assert (await client.call(METHOD, b"x")).status == 0
            await settled(edge)
        assert counts(edge).failed >= 6
        assert [one.failures for one in edge.endpoints] == [0, 0], "copies judge nobody"
        await edge.settled()


async def test_a_method_that_is_known_to_be_unary_is_copied_as_well(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, H2Upstream(echo).serve() as copies, run_edge(engine) as edge:
        edge.register(upstream.address)
        shadow(edge, copies.address)
        mirrored(edge)
        claims = getattr(edge.engine, "claims", None)
        if claims is not None:  # the engine that cares
            claims.replace([METHOD.encode()])
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD, b"one")).messages == [b"one"]
            (copy,) = await copies.until_streams(1)
            await settled(edge)
        assert (grpc_wire.parse(copy.data), copy.ended, counts(edge).failed) == ([b"one"], True, 0)
        await edge.settled()


async def test_a_shadow_that_hangs_holds_a_bounded_number_of_copies(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, H2Upstream(hang).serve() as copies, run_edge(engine) as edge:
        edge.register(upstream.address)
        shadow(edge, copies.address)
        mirrored(edge, max_in_flight=3)
        async with h2_connect(edge.public) as client:
            for _ in range(6):
                assert (await client.call(METHOD, b"x")).status == 0
            assert (counts(edge).in_flight, counts(edge).dropped) == (3, 3)
        await edge.settled()


async def test_a_shadow_that_reads_nothing_loses_its_copy(engine: str) -> None:
    slow = H2Upstream(hang, acknowledge=False)
    async with H2Upstream(echo).serve() as upstream, slow.serve() as copies, run_edge(engine) as edge:
        edge.register(upstream.address)
        shadow(edge, copies.address)
        mirrored(edge)
        async with h2_connect(edge.public) as client:
            pieces = [b"x" * 60_000] * (2 * MAX_BYTES // 60_000 + 8)
            answer = await client.call(METHOD, *pieces)
            assert (answer.status, len(answer.messages)) == (0, len(pieces))
            await settled(edge)
        assert counts(edge).failed == 1
        await edge.settled()


async def test_a_share_of_the_calls(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, H2Upstream(echo).serve() as copies, run_edge(engine) as edge:
        edge.register(upstream.address)
        shadow(edge, copies.address)
        mirrored(edge, percent=25)
        async with h2_connect(edge.public) as client:
            for _ in range(20):
                await client.call(METHOD, b"x")
            # What a copy has led to is not copied again.
            for _ in range(8):
                await client.call(METHOD, b"x", metadata=((b"mesh-mirror", b"1"),))
            await settled(edge)
        assert counts(edge).sent == 5
        await edge.settled()


async def test_a_call_that_is_cancelled_cancels_its_copy(engine: str) -> None:
    async with H2Upstream(hang).serve() as upstream, H2Upstream(hang).serve() as copies, run_edge(engine) as edge:
        edge.register(upstream.address)
        shadow(edge, copies.address)
        mirrored(edge)
        async with h2_connect(edge.public) as client:
            call = client.start(grpc_wire.request_headers(METHOD))
            await call.send_data(grpc_wire.frame(b"begun"))
            await upstream.until_streams(1)
            (copy,) = await copies.until_streams(1)
            await copy.until(lambda: bool(copy.data))
            call.reset(ErrorCodes.CANCEL)
            await copy.until_over()
            assert not copy.ended, "an upload that was cancelled does not look finished"
            await settled(edge)
        await edge.settled()
