"""What a listener does not show is as if it did not exist; what has no live instance is unavailable at once."""

from __future__ import annotations

import grpc
import pytest

from mesh.resilience import outcome
from tests.conformance.h2_client import Reply, h2_connect
from tests.conformance.h2_upstream import H2Upstream, echo
from tests.conformance.harness import METHOD, connect, run_edge, unary

HIDDEN, MISSING = "shop.v1.Hidden", "shop.v1.Nobody"


def _shape(reply: Reply, name: str) -> tuple[object, ...]:
    """Return all that can be told of a reply, but for its own id and the name that was asked for."""
    headers = [(key, b"" if key == b"x-correlation-id" else value) for key, value in reply.headers]
    trailers = [(key, value.replace(name.encode(), b"NAME")) for key, value in reply.trailers]
    return reply.status, reply.message.replace(name, "NAME"), headers, trailers, reply.reset_code


async def test_internal_service_cannot_be_told_from_one_that_does_not_exist(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address, service="hidden", grpc_service=HIDDEN, public=False)
        async with h2_connect(edge.public) as client:
            hidden = await client.call(f"/{HIDDEN}/Call", b"x")
            missing = await client.call(f"/{MISSING}/Call", b"x")
        assert _shape(hidden, HIDDEN) == _shape(missing, MISSING)
        assert (hidden.status, hidden.reason) == (outcome.UNIMPLEMENTED, "no_route")
        assert hidden.correlation_id
        assert upstream.streams == []
        assert [record.status for record in await edge.settled()] == [outcome.UNIMPLEMENTED] * 2


async def test_internal_listener_shows_every_service(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address, service="hidden", grpc_service=HIDDEN, public=False)
        async with h2_connect(edge.internal) as client:
            assert (await client.call(f"/{HIDDEN}/Call", b"x")).messages == [b"x"]
            missing = await client.call(f"/{MISSING}/Call", b"x")
            assert (missing.status, missing.reason) == (outcome.UNIMPLEMENTED, "no_route")
        served, refused = await edge.settled()
        assert (served.listener, refused.listener) == ("internal", "internal")


async def test_grpc_client_sees_the_refusal_and_its_id(engine: str) -> None:
    async with run_edge(engine) as edge, connect(edge.public) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(channel)(b"", metadata=(("x-correlation-id", "mine"),))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert dict(caught.value.initial_metadata())["x-correlation-id"] == "mine"
        assert dict(caught.value.trailing_metadata())["mesh-reason"] == "no_route"
        await edge.settled()


async def test_unknown_method_of_a_known_service_is_the_services_to_refuse(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert (await client.call("/conform.v1.Echo/Whatever", b"x")).status == 0
        assert upstream.streams[0].header(b":path") == b"/conform.v1.Echo/Whatever"
        await edge.settled()


async def test_service_without_an_instance_is_unavailable_at_once(engine: str) -> None:
    async with run_edge(engine) as edge:
        edge.register()
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, b"x")
            assert (reply.status, reply.reason) == (outcome.UNAVAILABLE, "no_endpoint")
            assert reply.correlation_id
        record = await edge.call_record()
        assert record.attempts == 0


async def test_service_whose_last_instance_leaves_becomes_unavailable(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD)).status == 0
            edge.deregister(upstream.address)
            assert (await client.call(METHOD)).reason == "no_endpoint"
        await edge.settled()


async def test_refused_upload_does_not_harm_the_connection(engine: str) -> None:
    """The client still sends when the refusal comes."""
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            refused = await client.call(f"/{MISSING}/Call", bytes(60_000))
            assert refused.status == outcome.UNIMPLEMENTED
            assert (await client.call(METHOD, b"next")).messages == [b"next"]
        await edge.settled()
