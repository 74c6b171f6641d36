"""The public gRPC interop cases that apply to a proxy, with grpc.aio on both ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest

from tests.conformance.grpc_upstream import GrpcUpstream, UpstreamCall
from tests.conformance.harness import EdgeUnderTest, connect, run_edge, stream, unary
from tests.conformance.interop_service import (
    EMPTY,
    FULL_DUPLEX,
    INITIAL,
    INPUT,
    OUTPUT,
    SERVICE,
    TRAILING,
    UNARY,
    UNIMPLEMENTED,
    ask,
    interop,
)

SIZES = [31415, 9, 2653, 58979]
REQUEST_SIZES = [27182, 8, 1828, 45904]


@dataclass
class Interop:
    edge: EdgeUnderTest
    upstream: GrpcUpstream
    channel: grpc.aio.Channel


@contextlib.asynccontextmanager
async def _interop(engine: str) -> AsyncIterator[Interop]:
    async with GrpcUpstream(interop).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address, service="interop", grpc_service=SERVICE)
        async with connect(edge.public) as channel:
            yield Interop(edge, upstream, channel)
        await edge.settled()


async def _only_call(case: Interop) -> UpstreamCall:
    (call,) = await case.upstream.until_calls(1)
    return call


async def _size(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> int:
    message = await call.read()
    assert isinstance(message, bytes)
    return len(message)


async def test_empty_unary(engine: str) -> None:
    async with _interop(engine) as case:
        assert await unary(case.channel, EMPTY)(b"") == b""


async def test_large_unary(engine: str) -> None:
    async with _interop(engine) as case:
        request = ask(314159, padding=271828)
        assert await unary(case.channel, UNARY)(request) == bytes(314159)
        assert (await _only_call(case)).received == [request]


async def test_client_streaming(engine: str) -> None:
    async with _interop(engine) as case:
        call = stream(case.channel, INPUT)()
        for size in REQUEST_SIZES:
            await call.write(bytes(size))
        await call.done_writing()
        assert await call.read() == b"74922"
        assert await call.code() is grpc.StatusCode.OK


async def test_server_streaming(engine: str) -> None:
    async with _interop(engine) as case:
        call = stream(case.channel, OUTPUT)()
        await call.write(ask(*SIZES))
        await call.done_writing()
        assert [await _size(call) for _ in SIZES] == SIZES
        assert await call.read() is grpc.aio.EOF


async def test_ping_pong(engine: str) -> None:
    async with _interop(engine) as case:
        call = stream(case.channel, FULL_DUPLEX)()
        for size, padding in zip(SIZES, REQUEST_SIZES, strict=True):
            await call.write(ask(size, padding=padding))
            assert await _size(call) == size
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_empty_stream(engine: str) -> None:
    async with _interop(engine) as case:
        call = stream(case.channel, FULL_DUPLEX)()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        assert (await _only_call(case)).received == []


async def test_cancel_after_begin(engine: str) -> None:
    async with _interop(engine) as case:
        call = stream(case.channel, INPUT)()
        seen = await _only_call(case)
        call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await asyncio.wait_for(seen.ended.wait(), 20)
        assert (await case.edge.call_record()).cancelled


async def test_cancel_after_first_response(engine: str) -> None:
    async with _interop(engine) as case:
        call = stream(case.channel, FULL_DUPLEX)()
        await call.write(ask(SIZES[0], padding=REQUEST_SIZES[0]))
        assert await _size(call) == SIZES[0]
        call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        seen = await _only_call(case)
        await asyncio.wait_for(seen.ended.wait(), 20)
        assert (await case.edge.call_record()).cancelled


async def test_timeout_on_sleeping_server(engine: str) -> None:
    async with _interop(engine) as case:
        call = stream(case.channel, FULL_DUPLEX)(timeout=1.0)
        await call.write(b"sleep")
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        seen = await _only_call(case)
        await asyncio.wait_for(seen.ended.wait(), 20)
        assert seen.cancelled


@pytest.mark.parametrize("kind", ["unary", "full-duplex"])
async def test_custom_metadata(engine: str, kind: str) -> None:
    metadata = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))
    async with _interop(engine) as case:
        call = stream(case.channel, UNARY if kind == "unary" else FULL_DUPLEX)(metadata=metadata)
        await call.write(ask(314159, padding=271828))
        assert await _size(call) == 314159
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert dict(await call.initial_metadata())[INITIAL] == "test_initial_metadata_value"
        assert dict(await call.trailing_metadata())[TRAILING] == b"\xab\xab\xab"


@pytest.mark.parametrize("method", [UNARY, FULL_DUPLEX])
@pytest.mark.parametrize(
    "message",
    ["test status message", "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"],
    ids=["status_code_and_message", "special_status_message"],
)
async def test_status_code_and_message(engine: str, method: str, message: str) -> None:
    async with _interop(engine) as case:
        call = stream(case.channel, method)()
        await call.write(ask(code=2, message=message))
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.UNKNOWN
        assert await call.details() == message


async def test_unimplemented_method(engine: str) -> None:
    async with _interop(engine) as case:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(case.channel, UNIMPLEMENTED)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert (await _only_call(case)).method == UNIMPLEMENTED


async def test_unimplemented_service(engine: str) -> None:
    async with _interop(engine) as case:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(case.channel, "/grpc.testing.UnimplementedService/UnimplementedCall")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert case.upstream.calls == []
