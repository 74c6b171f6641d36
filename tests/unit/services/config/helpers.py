"""A whole control process in the test's own: real gRPC, a real SQLite file, any free port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mesh.api.config import v1
from mesh.api.registry.v1 import Instance, RegisterRequest, RegistryStub
from mesh.discovery.channel import control_channel
from mesh.runtime import Process
from services.config.keys import make_key
from services.control import OFF, ControlOptions, run_control

ME = "ann"


@dataclass
class Announced(Process):
    addresses: asyncio.Future[Mapping[str, str]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def ready(self, addresses: Mapping[str, str]) -> None:
        self.addresses.set_result(addresses)


@dataclass
class Control:
    """A running control process and how to ask it."""

    address: str
    config: Any
    registry: Any

    async def put(self, text: str, application: str = "shop", **more: Any) -> v1.PutResponse:
        layer = v1.Layer(**{name: more.pop(name) for name in ("environment", "service", "instance") if name in more})
        request = v1.PutRequest(application=application, layer=layer, text=text, author=ME, **more)
        reply: v1.PutResponse = await self.config.Put(request)
        return reply

    async def publish(self, application: str = "shop", **more: Any) -> v1.Release:
        reply = await self.config.Publish(v1.PublishRequest(application=application, author=ME, **more))
        release: v1.Release = reply.release
        return release

    async def effective(self, application: str = "shop", **target: Any) -> v1.GetEffectiveResponse:
        reply: v1.GetEffectiveResponse = await self.config.GetEffective(
            v1.GetEffectiveRequest(application=application, **target)
        )
        return reply

    async def register(self, service: str, instance: str, **more: Any) -> int:
        """Make an instance live; returns its lease."""
        wanted = Instance(service=service, instance_id=instance, endpoints=["127.0.0.1:1"], **more)
        reply = await self.registry.Register(RegisterRequest(instance=wanted, ttl_seconds=600))
        return int(reply.lease_id)


@contextlib.asynccontextmanager
async def serving(folder: Path, *keys: str, listen: str = "127.0.0.1:0") -> AsyncIterator[Control]:
    """Run a control process on the data in `folder`; without `keys` with one that lasts as long as the folder."""
    file = folder / "keys"
    if keys or not file.exists():
        file.write_text("\n".join(keys or (make_key(),)))
    process = Announced()
    options = ControlOptions(listen=listen, data_dir=folder, grace=0, config_key_file=file, telemetry_store=OFF)
    running = asyncio.create_task(run_control(options, process))
    await asyncio.wait((running, process.addresses), return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        await running
    address = process.addresses.result()["control"]
    try:
        async with control_channel(address) as channel:
            yield Control(address, v1.ConfigStub(channel), RegistryStub(channel))
    finally:
        process.stop.set()
        await running


@dataclass(frozen=True)
class Refusal:
    """A status with its details."""

    code: grpc.StatusCode
    message: str
    # What is wrong, by field or path.
    violations: Mapping[str, str]
    # Of a failed precondition.
    kinds: set[str]


async def refused(call: Awaitable[object] | Callable[[], Awaitable[object]]) -> Refusal:
    """Return how the call is refused."""
    try:
        await (call() if callable(call) else call)
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    raise AssertionError("it was not refused")


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    violations: dict[str, str] = {}
    kinds: set[str] = set()
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # it has what a call has
    for detail in status.details if status is not None else ():
        bad, failed = error_details_pb2.BadRequest(), error_details_pb2.PreconditionFailure()
        if detail.Unpack(bad):
            violations |= {one.field: one.description for one in bad.field_violations}
        elif detail.Unpack(failed):
            violations |= {one.subject: one.description for one in failed.violations}
            kinds |= {one.type for one in failed.violations}
        else:
            kinds.add(detail.type_url.rpartition(".")[2])
    return Refusal(error.code(), error.details() or "", violations, kinds)
