"""A connection that begins while the engine drains hears of the end only once its client has shown that it began."""

from __future__ import annotations

import asyncio

from tests.conformance.h2_peer import HANG_SECONDS
from tests.conformance.harness import run_edge

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload


async def until(reader: asyncio.StreamReader, wanted: int) -> tuple[list[int], bytes]:
    """Read frames up to one of a kind; returns all their kinds, and what is in the last one."""
    kinds = []
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        kinds.append(head[3])
        if head[3] == wanted:
            return kinds, payload


async def test_goaway_comes_after_the_first_answer() -> None:
    async with run_edge("wire") as edge, asyncio.timeout(HANG_SECONDS):
        host, _, port = edge.public.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        kinds, _ = await until(reader, SETTINGS)
        stopping = asyncio.create_task(edge.engine.stop(HANG_SECONDS))
        more, asked = await until(reader, PING)
        assert GOAWAY not in kinds + more
        writer.write(PREFACE + frame(SETTINGS) + frame(PING, asked, flags=1))
        # The announcement and one more PING, in either order; then the final word.
        kinds, payload = await until(reader, GOAWAY)
        if PING not in kinds:
            _, asked = await until(reader, PING)
        assert int.from_bytes(payload[:4], "big") == 2**31 - 1
        writer.write(frame(PING, asked, flags=1))
        _, payload = await until(reader, GOAWAY)
        assert int.from_bytes(payload[:4], "big") == 0
        await stopping
        writer.close()
