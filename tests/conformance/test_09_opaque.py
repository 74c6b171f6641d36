"""9. Bytes are opaque: what one side sends is what the other one gets."""

from __future__ import annotations

import base64

import pytest

from tests.conformance import grpc_wire
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, echo
from tests.conformance.harness import METHOD, run_edge

BINARY = [b"", b"\x00", b"\x00\xff", b"abc", bytes(range(256))]


def unpadded(value: bytes) -> bytes:
    return base64.b64encode(value).rstrip(b"=")


def decoded(value: bytes) -> bytes:
    return base64.b64decode(value + b"=" * (-len(value) % 4))


@pytest.mark.parametrize("value", BINARY, ids=len)
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
async def test_binary_metadata_survives(engine: str, value: bytes, *, padded: bool) -> None:
    wire = base64.b64encode(value) if padded else unpadded(value)

    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        stream.send_headers(grpc_wire.response_headers((b"x-first-bin", wire)))
        stream.send_headers(grpc_wire.status_headers(0, "", (b"x-last-bin", wire)), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, metadata=((b"x-mine-bin", wire),))
        assert decoded(upstream.streams[0].header(b"x-mine-bin") or b"") == value
        assert decoded(dict(reply.headers)[b"x-first-bin"]) == value
        assert decoded(dict(reply.trailers)[b"x-last-bin"]) == value
        await edge.settled()


async def test_duplicate_keys_keep_their_order(engine: str) -> None:
    pairs = [(b"x-many", b"b"), (b"x-other", b"1"), (b"x-many", b"a"), (b"x-many", b"c"), (b"x-many", b"a")]

    async def script(stream: Stream) -> None:
        stream.send_headers(grpc_wire.response_headers(*pairs))
        await stream.until(lambda: stream.ended)
        stream.send_headers(grpc_wire.status_headers(0, "", *pairs), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, metadata=pairs)
        for came in (upstream.streams[0].headers, reply.headers, reply.trailers):
            assert [value for name, value in came if name == b"x-many"] == [b"b", b"a", b"c", b"a"]
        await edge.settled()


async def test_several_binary_values_in_one_header_survive(engine: str) -> None:
    """A sender may join the values of one key with commas."""
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD, metadata=((b"x-mine-bin", b"AAE=,AgM"),))).status == 0
        values = [value for name, value in upstream.streams[0].headers if name == b"x-mine-bin"]
        parts = [decoded(part) for value in values for part in value.split(b",")]
        assert parts == [b"\x00\x01", b"\x02\x03"]
        await edge.settled()


async def test_printable_ascii_metadata_survives(engine: str) -> None:
    text = bytes(range(0x21, 0x7F)) + b" inner  spaces"
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD, metadata=((b"x-mine", text),))).status == 0
        assert upstream.streams[0].header(b"x-mine") == text
        await edge.settled()


@pytest.mark.parametrize("frame_size", [1, 7, 16384])
async def test_messages_split_over_frames_arrive_whole(engine: str, frame_size: int) -> None:
    messages = [b"", b"a", bytes(300), b"b" * 5]

    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        stream.send_headers(grpc_wire.response_headers())
        await stream.send_data(stream.data, frame_size=frame_size)
        stream.send_headers(grpc_wire.status_headers(0), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD))
            await stream.send_data(grpc_wire.frames(messages), end=True, frame_size=frame_size)
            reply = await client.reply(stream)
        assert (reply.status, reply.messages) == (0, messages)
        assert upstream.streams[0].data == grpc_wire.frames(messages)
        record = await edge.call_record()
        assert (record.messages_in, record.messages_out, record.bytes_in) == (4, 4, 306)


async def test_compressed_messages_pass_as_they_are(engine: str) -> None:
    """Neither decoded nor encoded again: the flag and the header tell the receiver what they are."""
    data = grpc_wire.frame(b"not really gzip", flag=1)
    coding = (b"grpc-encoding", b"gzip")

    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        stream.send_headers(grpc_wire.response_headers(coding))
        await stream.send_data(stream.data)
        stream.send_headers(grpc_wire.status_headers(0), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD, coding))
            await stream.send_data(data, end=True)
            await stream.until_over()
        assert upstream.streams[0].data == data
        assert upstream.streams[0].header(b"grpc-encoding") == b"gzip"
        assert stream.data == data
        assert stream.header(b"grpc-encoding") == b"gzip"
        await edge.settled()


async def test_message_cut_short_by_the_upstream_is_not_made_whole(engine: str) -> None:
    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        stream.send_headers(grpc_wire.response_headers())
        await stream.send_data(grpc_wire.frame(b"half of it")[:9])
        stream.send_headers(grpc_wire.status_headers(0), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD)
            assert reply.messages == []
        await edge.settled()
