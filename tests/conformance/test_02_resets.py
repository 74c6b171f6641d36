"""2. RST_STREAM is mapped both ways, as gRPC's PROTOCOL-HTTP2 says."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes

from mesh.resilience import outcome
from tests.conformance import grpc_wire
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, hang
from tests.conformance.harness import METHOD, run_edge

CODES = [
    (ErrorCodes.NO_ERROR, outcome.INTERNAL),
    (ErrorCodes.PROTOCOL_ERROR, outcome.INTERNAL),
    (ErrorCodes.INTERNAL_ERROR, outcome.INTERNAL),
    (ErrorCodes.FLOW_CONTROL_ERROR, outcome.INTERNAL),
    (ErrorCodes.FRAME_SIZE_ERROR, outcome.INTERNAL),
    (ErrorCodes.REFUSED_STREAM, outcome.UNAVAILABLE),
    (ErrorCodes.CANCEL, outcome.CANCELLED),
    (ErrorCodes.COMPRESSION_ERROR, outcome.INTERNAL),
    (ErrorCodes.CONNECT_ERROR, outcome.INTERNAL),
    (ErrorCodes.ENHANCE_YOUR_CALM, outcome.RESOURCE_EXHAUSTED),
    (ErrorCodes.INADEQUATE_SECURITY, outcome.PERMISSION_DENIED),
]


@pytest.mark.parametrize(("code", "status"), CODES)
@pytest.mark.parametrize("begun", [False, True], ids=["before-headers", "after-a-message"])
async def test_reset_of_the_upstream_becomes_a_status(engine: str, code: int, status: int, *, begun: bool) -> None:
    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        if begun:
            stream.send_headers(grpc_wire.response_headers())
            await stream.send_data(grpc_wire.frame(b"part"))
            await stream.peer.ping()  # the edge has read it: a reset may overtake what lies in its buffers
        stream.reset(code)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, b"request")
            assert (reply.status, reply.reason) == (status, "upstream_reset")
            assert reply.reset_code in (None, ErrorCodes.NO_ERROR)
            assert not client.lost
        record = await edge.call_record()
        assert record.status == status
        assert not record.cancelled


@pytest.mark.parametrize("code", [ErrorCodes.CANCEL, ErrorCodes.INTERNAL_ERROR, ErrorCodes.NO_ERROR])
async def test_reset_of_the_client_cancels_the_upstream(engine: str, code: int) -> None:
    async with H2Upstream(hang).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD))
            (seen,) = await upstream.until_streams(1)
            stream.reset(code)
            assert await seen.until_reset() == ErrorCodes.CANCEL
            await client.ping()
        record = await edge.call_record()
        assert (record.status, record.reason, record.cancelled) == (outcome.CANCELLED, None, True)
