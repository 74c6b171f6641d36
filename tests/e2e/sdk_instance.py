"""A service on the SDK as a process of its own, for tests that mistreat it: its arguments are control plane and id."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import grpc

import mesh

METHOD = "/victim.v1.Victim/Get"
SLOW = "/victim.v1.Victim/BeSlow"


class Victim:
    """Says who it is, as slowly as it was told."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._seconds = 0.0

    async def Get(self, request: bytes, context: Any) -> bytes:
        if self._seconds:
            await asyncio.sleep(self._seconds)
        return self._name

    async def BeSlow(self, request: bytes, context: Any) -> bytes:
        self._seconds = float(request)
        return b"%d" % os.getpid()


def add_victim(victim: Victim, server: Any) -> None:
    """Do what generated code does."""
    handlers: dict[str, Any] = {
        "Get": grpc.unary_unary_rpc_method_handler(victim.Get),
        "BeSlow": grpc.unary_unary_rpc_method_handler(victim.BeSlow),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("victim.v1.Victim", handlers),))


async def main(control: str, name: str) -> None:
    async with mesh.join("victim", control=control, instance_id=name, telemetry=False, ttl_seconds=600) as m:
        m.add(add_victim, Victim(name.encode()))
        await m.serve()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
