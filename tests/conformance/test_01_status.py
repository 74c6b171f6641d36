"""1. Trailers-only replies, and a missing grpc-status made from the HTTP status."""

from __future__ import annotations

import grpc
import pytest

from mesh.resilience import outcome
from tests.conformance import grpc_wire
from tests.conformance.h2_client import Reply, h2_connect
from tests.conformance.h2_peer import Headers, Stream
from tests.conformance.h2_upstream import H2Upstream, Script
from tests.conformance.harness import METHOD, connect, run_edge, unary


async def _reply_to(engine: str, script: Script) -> Reply:
    """Make one call to an upstream with that script; checks what holds for every reply."""
    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, b"request")
        record = await edge.call_record()
        assert record.status == reply.status
        assert reply.correlation_id.encode() == record.correlation_id != b""
        assert dict(reply.headers)[b":status"] == b"200"
        return reply


def _only(*headers: tuple[bytes, bytes]) -> Script:
    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        stream.send_headers(headers, end=True)

    return script


async def test_trailers_only_reply_keeps_code_message_and_metadata(engine: str) -> None:
    headers = grpc_wire.response_headers(*grpc_wire.status_headers(5, "no%20such%20order", (b"x-why", b"gone")))
    reply = await _reply_to(engine, _only(*headers))
    assert (reply.status, reply.message, reply.reason, reply.messages) == (5, "no such order", "", [])
    assert (b"x-why", b"gone") in [*reply.headers, *reply.trailers]


async def test_trailers_only_reply_reaches_a_grpc_client(engine: str) -> None:
    headers = grpc_wire.response_headers(*grpc_wire.status_headers(9, "not now", (b"x-why-bin", b"AAE=")))
    async with H2Upstream(_only(*headers)).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with connect(edge.public) as channel:
            call = unary(channel)(b"")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert caught.value.details() == "not now"
            assert ("x-why-bin", b"\x00\x01") in tuple(caught.value.trailing_metadata())
            assert "x-correlation-id" in dict(caught.value.initial_metadata())
        await edge.settled()


@pytest.mark.parametrize("code", [0, *range(1, 17)])
async def test_every_status_after_messages_passes(engine: str, code: int) -> None:
    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        stream.send_headers(grpc_wire.response_headers((b"x-first", b"1")))
        await stream.send_data(grpc_wire.frame(b"part"))
        stream.send_headers(grpc_wire.status_headers(code, "so it is", (b"x-last", b"2")), end=True)

    reply = await _reply_to(engine, script)
    assert (reply.status, reply.reason, reply.messages) == (code, "", [b"part"])
    assert code == 0 or reply.message == "so it is"  # what is said of an OK means nothing
    assert (b"x-first", b"1") in reply.headers
    assert (b"x-last", b"2") in reply.trailers


async def test_binary_status_details_pass(engine: str) -> None:
    trailers = grpc_wire.status_headers(3, "bad", (b"grpc-status-details-bin", b"CAMSA2JhZA"))

    async def script(stream: Stream) -> None:
        stream.send_headers(grpc_wire.response_headers())
        stream.send_headers(trailers, end=True)

    reply = await _reply_to(engine, script)
    assert dict(reply.trailers)[b"grpc-status-details-bin"].rstrip(b"=") == b"CAMSA2JhZA"


async def test_status_message_of_any_unicode_passes(engine: str) -> None:
    text = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n100 %"
    encoded = "".join(chr(one) if 0x20 <= one <= 0x7E and one != 0x25 else f"%{one:02X}" for one in text.encode())
    reply = await _reply_to(engine, _only(*grpc_wire.response_headers(*grpc_wire.status_headers(2, encoded))))
    assert (reply.status, reply.message) == (2, text)


HTTP_STATUS = [
    (400, outcome.INTERNAL),
    (401, outcome.UNAUTHENTICATED),
    (403, outcome.PERMISSION_DENIED),
    (404, outcome.UNIMPLEMENTED),
    (418, outcome.UNKNOWN),
    (429, outcome.UNAVAILABLE),
    (500, outcome.UNKNOWN),
    (502, outcome.UNAVAILABLE),
    (503, outcome.UNAVAILABLE),
    (504, outcome.UNAVAILABLE),
]


@pytest.mark.parametrize(("http", "code"), HTTP_STATUS)
async def test_missing_status_comes_from_the_http_status(engine: str, http: int, code: int) -> None:
    reply = await _reply_to(engine, _only((b":status", b"%d" % http), (b"content-type", b"text/html")))
    assert reply.status == code


async def test_http_431_is_internal(engine: str) -> None:
    reply = await _reply_to(engine, _only((b":status", b"431"), (b"content-type", b"text/html")))
    assert reply.status == outcome.INTERNAL


@pytest.mark.parametrize(("http", "code"), [(502, outcome.UNAVAILABLE), (403, outcome.PERMISSION_DENIED)])
async def test_body_of_an_http_error_does_not_reach_the_client(engine: str, http: int, code: int) -> None:
    async def script(stream: Stream) -> None:
        stream.send_headers([(b":status", b"%d" % http), (b"content-type", b"text/html")])
        await stream.send_data(b"<html>Bad Gateway</html>", end=True)

    reply = await _reply_to(engine, script)
    assert (reply.status, reply.messages) == (code, [])


MISSING: list[Headers] = [[], [(b"x-other", b"1")]]


@pytest.mark.parametrize("trailers", MISSING)
async def test_end_without_any_status_is_unknown_or_internal(engine: str, trailers: Headers) -> None:
    async def script(stream: Stream) -> None:
        stream.send_headers(grpc_wire.response_headers())
        await stream.send_data(grpc_wire.frame(b"part"))
        if trailers:
            stream.send_headers(trailers, end=True)
        else:
            stream.end()

    reply = await _reply_to(engine, script)
    assert reply.status in (outcome.UNKNOWN, outcome.INTERNAL)
