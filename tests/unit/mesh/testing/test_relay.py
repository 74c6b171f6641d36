from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from mesh.testing.relay import Relay

PATIENCE = 60.0


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    """A wire to a server that sends everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with Relay() as wire:
        host, port = server.sockets[0].getsockname()
        wire.lead_to(f"{host}:{port}")
        yield wire
    server.close()
    await server.wait_closed()


async def connect(relay: Relay) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = relay.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"hello")
    async with asyncio.timeout(PATIENCE):
        return await reader.read(1000)


async def ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    left = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            left = await reader.read()
    writer.close()
    return left == b""


async def test_it_forwards_both_ways_and_ends(relay: Relay) -> None:
    reader, writer = await connect(relay)
    assert await echoed(reader, writer) == b"hello"
    writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        assert await reader.read() == b""
    writer.close()


async def test_a_cut_resets_what_is_there_and_what_comes_until_it_is_mended(relay: Relay) -> None:
    reader, writer = await connect(relay)
    assert await echoed(reader, writer) == b"hello"
    relay.cut()
    assert await ended(reader, writer)
    assert await ended(*await connect(relay))
    relay.mend()
    reader, writer = await connect(relay)
    assert await echoed(reader, writer) == b"hello"
    writer.close()


async def test_a_stall_keeps_bytes_back_and_loses_none(relay: Relay) -> None:
    reader, writer = await connect(relay)
    assert await echoed(reader, writer) == b"hello"
    relay.stall()
    writer.write(b"late")
    reading = asyncio.ensure_future(reader.read(1000))
    # Another connection gets through as far: it is taken, and nothing comes.
    other = await connect(relay)
    assert not reading.done()
    relay.mend()
    async with asyncio.timeout(PATIENCE):
        assert await reading == b"late"
    for one in (writer, other[1]):
        one.close()


async def test_connections_wait_for_a_place_to_go() -> None:
    async with Relay() as wire:
        _, writer = await connect(wire)
        writer.write(b"hello")
        await writer.drain()
        writer.close()
