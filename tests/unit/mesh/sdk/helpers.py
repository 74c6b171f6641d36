"""A mesh of one process for the SDK's tests: real services on loopback, and a service that does what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from mesh.api.config.v1 import add_ConfigServicer_to_server
from mesh.context import current
from mesh.tls.identity import Identity
from mesh.tls.options import ListenerTls
from services.config import shipped
from services.config.domain import Config
from services.config.keys import KeyRing
from services.config.servicer import SERVICE as CONFIG
from services.config.servicer import GrpcConfig
from services.host import Host, Hosted
from services.registry.domain import Registry
from services.registry.servicer import SERVICE as REGISTRY
from services.registry.servicer import add_registry
from services.storage.kv.embedded import EmbeddedStore

# Generous: the machine may be busy. Nothing waits this long unless it is broken.
PATIENCE = 30.0
LAB = "lab.v1.Lab"

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class Control:
    """A control plane without telemetry."""

    address: str
    registry: Registry
    config: Config


@contextlib.asynccontextmanager
async def control_plane(
    path: Path, address: str = "127.0.0.1:0", tls: ListenerTls | None = None
) -> AsyncIterator[Control]:
    async with (
        EmbeddedStore.open(path) as store,
        Registry(store) as registry,
        Config(store, registry, KeyRing.parse([])) as config,
    ):
        await shipped.register(config)
        services = [
            Hosted(REGISTRY, lambda server: add_registry(registry, server)),
            Hosted(CONFIG, lambda server: add_ConfigServicer_to_server(GrpcConfig(config), server)),
        ]
        identity = Identity("control", tls) if tls is not None else None
        host = Host(address, services, option="--listen", tls=identity)
        where = await host.start()
        try:
            yield Control(where, registry, config)
        finally:
            await host.stop(0)


async def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Return the first true value of `condition`."""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                value = condition()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"still not: {what or condition}") from None


@contextlib.asynccontextmanager
async def dialled(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        yield channel


class Lab:
    """Does what requests say: {"do": ..., ...} in JSON; answers with what it knows of the call."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.calls = 0
        # What calls see that are cancelled, and what holds others up.
        self.cancelled: list[str] = []
        self.gate = asyncio.Event()
        self.waiting = 0

    async def Get(self, request: bytes, context: Context) -> bytes:
        return await self.do(request, context)

    async def List(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        for _ in range(json.loads(request).get("times", 2)):
            yield await self.do(request, context)

    async def Write(self, request: bytes, context: Context) -> None:
        """Answer by the other of the two ways that grpc.aio has."""
        for _ in range(json.loads(request).get("times", 2)):
            await context.write(await self.do(request, context))

    async def Sum(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        answers = [json.loads(await self.do(request, context)) async for request in requests]
        return json.dumps({"count": len(answers), **(answers[-1] if answers else {})}).encode()

    async def Chat(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self.do(request, context)

    async def do(self, request: bytes, context: Context) -> bytes:
        told = json.loads(request)
        self.calls += 1
        match told.get("do", "tell"):
            case "raise":
                raise ValueError("the secret of the house")
            case "abort":
                code = getattr(grpc.StatusCode, told["code"])
                await context.abort(code, "as told", tuple(map(tuple, told.get("trailers", ()))))
            case "set":
                context.set_code(grpc.StatusCode.NOT_FOUND)
                context.set_details("set")
            case "wait":
                self.waiting += 1
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    self.cancelled.append(told.get("who", ""))
                    raise
                finally:
                    self.waiting -= 1
        about = current()
        assert about is not None
        left = context.time_remaining()
        known = {
            "name": self.name,
            "correlation": about.correlation_id,
            "trace": about.trace_id,
            "span": about.span_id,
            "sampled": about.sampled,
            "deadline": about.deadline is not None,
            "left": left,
            "metadata": [[key, str(value)] for key, value in context.invocation_metadata() or ()],
        }
        return json.dumps(known).encode()


def add_lab(lab: Lab, server: Any) -> None:
    """Do what generated code does."""
    handlers: dict[str, Any] = {
        "Get": grpc.unary_unary_rpc_method_handler(lab.Get),
        "List": grpc.unary_stream_rpc_method_handler(lab.List),
        "Write": grpc.unary_stream_rpc_method_handler(lab.Write),
        "Sum": grpc.stream_unary_rpc_method_handler(lab.Sum),
        "Chat": grpc.stream_stream_rpc_method_handler(lab.Chat),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(LAB, handlers),))
    server.add_registered_method_handlers(LAB, handlers)


class LabStub:
    """Does what generated stubs do."""

    def __init__(self, channel: Any) -> None:
        self.Get = channel.unary_unary(f"/{LAB}/Get", _registered_method=True)
        self.List = channel.unary_stream(f"/{LAB}/List", _registered_method=True)
        self.Write = channel.unary_stream(f"/{LAB}/Write", _registered_method=True)
        self.Sum = channel.stream_unary(f"/{LAB}/Sum", _registered_method=True)
        self.Chat = channel.stream_stream(f"/{LAB}/Chat", _registered_method=True)


def told(do: str = "tell", **more: Any) -> bytes:
    return json.dumps({"do": do, **more}).encode()
