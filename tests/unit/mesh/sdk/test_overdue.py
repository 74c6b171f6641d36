"""Calls to a peer whose connection takes nothing: they end at their deadline, though grpc's core does not end them."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

import grpc
import pytest

import mesh
from mesh.api.registry.v1 import HEALTH_SERVING, Instance, RegisterRequest, RegistryStub
from mesh.resilience.policy import HedgeOptions
from tests.unit.mesh.sdk.helpers import LAB, PATIENCE, Control, dialled

_SETTINGS, _WINDOW_UPDATE, _ACK, _INITIAL_WINDOW, _MOST = 4, 8, 1, 4, 2**31 - 1
# More than the sockets of both sides hold.
_BYTES = b"x" * (64 << 20)


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes((kind, flags)) + bytes(4) + payload


@contextlib.asynccontextmanager
async def _deaf() -> AsyncIterator[str]:
    """Serve connections whose peer may send at once whatever it has, of which nothing is read; yields the address."""
    connections: list[asyncio.StreamWriter] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(_frame(_SETTINGS, 0, struct.pack("!HI", _INITIAL_WINDOW, _MOST)))
        writer.write(_frame(_SETTINGS, _ACK, b"") + _frame(_WINDOW_UPDATE, 0, struct.pack("!I", _MOST - 65535)))
        await reader.readexactly(24)
        writer.transport.pause_reading()  # type: ignore[attr-defined] # a stream's transport reads

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()
        for writer in connections:
            writer.transport.abort()


async def _registered(control: Control, address: str) -> None:
    instance = Instance(
        service="deaf", instance_id="deaf-1", endpoints=[address], grpc_services=[LAB], health=HEALTH_SERVING
    )
    async with dialled(control.address) as channel:
        await RegistryStub(channel).Register(RegisterRequest(instance=instance, ttl_seconds=3600), timeout=PATIENCE)


@pytest.mark.parametrize("hedge", [None, HedgeOptions(attempts=2, delay_seconds=0.05)], ids=["plain", "hedged"])
async def test_a_call_whose_bytes_are_not_taken_ends_at_its_deadline(
    control: Control, hedge: HedgeOptions | None
) -> None:
    async with _deaf() as address:
        await _registered(control, address)
        async with mesh.join("caller", control=control.address, telemetry=False) as m:
            hedges = {} if hedge is None else {f"{LAB}/Get": hedge}
            get = m.channel("deaf", hedge=hedges).unary_unary(f"/{LAB}/Get")
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await get(_BYTES, timeout=0.5)
    error = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # These are our words: core ends such a call much later, with its own.
    assert error.details() == "instance deaf-1 of deaf did not answer in time: its connection takes nothing"
    assert dict(error.trailing_metadata() or ())["mesh-reason"] == "deadline_exceeded"


async def test_who_is_cancelled_while_the_connection_takes_nothing_is_told_so(control: Control) -> None:
    async with _deaf() as address:
        await _registered(control, address)
        async with mesh.join("caller", control=control.address, telemetry=False) as m:
            get = m.channel("deaf").unary_unary(f"/{LAB}/Get")

            async def call() -> None:
                await get(_BYTES, timeout=600)

            calling = asyncio.create_task(call())
            await asyncio.sleep(0)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
