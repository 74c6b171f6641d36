"""12. Pings are answered, abusive frames bounded, and the other connections unharmed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

from tests.conformance import grpc_wire
from tests.conformance.h2_client import H2Client, h2_connect
from tests.conformance.h2_peer import PeerGoneError
from tests.conformance.h2_upstream import H2Upstream, echo
from tests.conformance.harness import METHOD, run_edge

MANY = 3000


async def test_pings_of_an_idle_connection_are_answered(engine: str) -> None:
    async with run_edge(engine) as edge, h2_connect(edge.public) as client:
        await client.ping(b"number 1")
        await client.ping(b"number 2")
        assert client.goaways == []


async def test_pings_are_answered_during_a_call(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            call = client.start(grpc_wire.request_headers(METHOD))
            await upstream.until_streams(1)
            await client.ping()
            call.end()
            assert (await client.reply(call)).status == 0
        await edge.settled()


def _rapid_reset(client: H2Client) -> None:
    for _ in range(MANY):
        client.start(grpc_wire.request_headers(METHOD)).reset(ErrorCodes.CANCEL)


def _pings(client: H2Client) -> None:
    for _ in range(MANY):
        client.send_frame(PingFrame(0, opaque_data=b"12345678"))


def _settings(client: H2Client) -> None:
    for _ in range(MANY):
        client.send_frame(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 65_535}))


def _empty_data(client: H2Client) -> None:
    stream = client.start(grpc_wire.request_headers(METHOD))
    for _ in range(MANY):
        client.send_frame(DataFrame(stream.id))


def _continuations(client: H2Client) -> None:
    stream_id = client.h2.get_next_available_stream_id()
    block = client.h2.encoder.encode(grpc_wire.request_headers(METHOD))
    client.send_frame(HeadersFrame(stream_id, data=block))
    for number in range(MANY):
        field = b"\x00\x04x-%02d" % (number % 100) + b"\x7f\x81\x07" + b"a" * 1024
        client.send_frame(ContinuationFrame(stream_id, data=field))


def _empty_continuations(client: H2Client) -> None:
    stream_id = client.h2.get_next_available_stream_id()
    client.send_frame(HeadersFrame(stream_id, data=client.h2.encoder.encode(grpc_wire.request_headers(METHOD))))
    for _ in range(MANY):
        client.send_frame(ContinuationFrame(stream_id))


def _resets_of_nothing(client: H2Client) -> None:
    for number in range(MANY):
        client.send_frame(RstStreamFrame(2 * number + 1, error_code=8))


ATTACKS: list[Callable[[H2Client], None]] = [
    _rapid_reset,
    _pings,
    _settings,
    _empty_data,
    _continuations,
    _empty_continuations,
    _resets_of_nothing,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.strip("_"))
async def test_calls_of_others_go_on_during_an_attack(engine: str, attack: Callable[[H2Client], None]) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as attacker, h2_connect(edge.public) as other:
            attack(attacker)
            replies = await asyncio.gather(*(other.call(METHOD, b"%d" % number) for number in range(20)))
            assert [(reply.status, reply.message) for reply in replies] == [(0, "")] * 20
            assert [reply.messages for reply in replies] == [[b"%d" % number] for number in range(20)]
            assert other.goaways == []
            attacker.cut()
        await edge.settled()


async def test_rapid_reset_leaves_nothing_behind(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as attacker, h2_connect(edge.public) as other:
            _rapid_reset(attacker)
            assert (await other.call(METHOD, b"x")).status == 0
            attacker.cut()
            await edge.settled()
            assert not [one for one in upstream.streams if not one.over]


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n",
    bytes(64),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=["http1", "zeros", "bad-frame"])
async def test_garbage_harms_no_other_connection(engine: str, garbage: bytes) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        host, _, port = edge.public.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(garbage)
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD, b"fine")).status == 0
        writer.transport.abort()
        del reader
        await edge.settled()


INVALID = [
    b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x",  # DATA on stream 0
    HeadersFrame(2, flags=["END_HEADERS"], data=b"\x82").serialize(),  # a stream that only a server may open
    SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2**31}).serialize(),
]


@pytest.mark.parametrize("frame", INVALID, ids=["data-on-0", "even-stream", "window-too-large"])
async def test_invalid_frames_harm_no_other_connection(engine: str, frame: bytes) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as bad, h2_connect(edge.public) as good:
            bad.send_raw(frame)
            with contextlib.suppress(PeerGoneError):  # or the frame is passed over
                await bad.ping()
            assert (await good.call(METHOD, b"fine")).status == 0
        await edge.settled()
