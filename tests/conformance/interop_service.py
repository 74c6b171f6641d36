"""The service of gRPC's public interoperability tests, as far as a proxy is concerned; messages are opaque bytes.

A request says what it wants in text of our own: "size=N size=N code=N message=TEXT"; a reply is N zero bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import grpc

from tests.conformance.grpc_upstream import UpstreamCall

SERVICE = "grpc.testing.TestService"
EMPTY, UNARY = f"/{SERVICE}/EmptyCall", f"/{SERVICE}/UnaryCall"
INPUT, OUTPUT = f"/{SERVICE}/StreamingInputCall", f"/{SERVICE}/StreamingOutputCall"
FULL_DUPLEX, UNIMPLEMENTED = f"/{SERVICE}/FullDuplexCall", f"/{SERVICE}/UnimplementedCall"

INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def ask(*sizes: int, code: int = 0, message: str = "", padding: int = 0) -> bytes:
    """Return a request for replies of these sizes, or for a status."""
    words = [f"size={size}" for size in sizes]
    if code:
        words += [f"code={code}", f"message={message}"]
    return " ".join(words).encode() + b"\x00" * padding


async def interop(call: UpstreamCall) -> AsyncIterator[bytes]:
    """Serve one call of the test service."""
    await _echo_metadata(call)
    if call.method == EMPTY:
        assert [message async for message in call.read()] == [b""]
        yield b""
    elif call.method == INPUT:
        yield b"%d" % sum([len(message) async for message in call.read()])
    elif call.method in (UNARY, OUTPUT, FULL_DUPLEX):
        async for message in call.read():
            for size in await _wishes(call, message):
                yield bytes(size)
    else:
        await call.context.abort(grpc.StatusCode.UNIMPLEMENTED, f"Method not found: {call.method}")


async def _wishes(call: UpstreamCall, message: bytes) -> list[int]:
    text = message.rstrip(b"\x00").decode()
    code = re.search(r"code=(\d+) message=(.*)", text, re.DOTALL)
    if code:
        await call.context.abort(_CODES[int(code[1])], code[2])
    if text == "sleep":
        await asyncio.Event().wait()
    return [int(size) for size in re.findall(r"size=(\d+)", text)]


async def _echo_metadata(call: UpstreamCall) -> None:
    await call.context.send_initial_metadata([(INITIAL, value) for value in call.values(INITIAL)])
    call.context.set_trailing_metadata([(TRAILING, value) for value in call.values(TRAILING)])
