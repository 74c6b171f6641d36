"""The plain case: bytes go through, both ways, with the edge's books right."""

from __future__ import annotations

import grpc

from tests.conformance import grpc_upstream, h2_upstream
from tests.conformance.grpc_upstream import GrpcUpstream
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_upstream import H2Upstream
from tests.conformance.harness import METHOD, connect, run_edge, stream, unary


async def test_unary_call_passes_bytes_and_metadata(engine: str) -> None:
    async with GrpcUpstream(grpc_upstream.echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with connect(edge.public) as channel:
            call = unary(channel)(b"\x00\xffhello", metadata=(("x-mine", "kept"),))
            assert await call == b"\x00\xffhello"
            headers = dict(await call.initial_metadata())
        record = await edge.call_record()
        (seen,) = upstream.calls
        assert seen.method == METHOD
        assert seen.values("x-mine") == ["kept"]
        assert seen.values("x-correlation-id") == [headers["x-correlation-id"]] == [record.correlation_id.decode()]
        assert (record.status, record.bytes_in, record.bytes_out, record.attempts) == (0, 7, 7, 1)


async def test_bidirectional_stream_passes_messages_as_they_come(engine: str) -> None:
    async with GrpcUpstream(grpc_upstream.echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with connect(edge.public) as channel:
            call = stream(channel)()
            for message in (b"one", b"", b"three"):
                await call.write(message)
                assert await call.read() == message
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        record = await edge.call_record()
        assert (record.status, record.messages_in, record.messages_out) == (0, 3, 3)


async def test_raw_client_to_scripted_upstream(engine: str) -> None:
    async with H2Upstream(h2_upstream.echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, b"over h2", metadata=((b"x-mine", b"kept"),))
        assert (reply.status, reply.messages, reply.reason) == (0, [b"over h2"], "")
        (seen,) = upstream.streams
        assert seen.header(b":path") == METHOD.encode()
        assert seen.header(b"x-mine") == b"kept"
        record = await edge.call_record()
        assert record.correlation_id == seen.header(b"x-correlation-id") == reply.correlation_id.encode()
