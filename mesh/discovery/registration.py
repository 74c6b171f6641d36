"""Keeping one instance in the registry."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc

from mesh.api.registry.v1 import (
    LEASE_STATE_LIVE,
    LEASE_STATE_REPLACED,
    DeregisterRequest,
    DrainRequest,
    DrainResponse,
    KeepAliveRequest,
    KeepAliveResponse,
    RegisterRequest,
    RegistryStub,
)
from mesh.discovery.channel import control_channel, mesh_error
from mesh.discovery.convert import health_to_proto, instance_to_proto
from mesh.discovery.errors import RefusedError, ReplacedError
from mesh.discovery.model import Health, Instance
from mesh.discovery.targets import Targets

if TYPE_CHECKING:
    from mesh.api.registry.v1.registry_pb2_grpc import RegistryAsyncStub  # exists for type checkers only

# Seconds that a call to the registry may take, and that deregistering may take in all.
CALL_TIMEOUT = 5.0
LEAVE_TIMEOUT = 2.0
# Seconds that leaving waits until everyone who sends calls here has heard of it, and what the answer itself may take.
DRAIN_TIMEOUT = 5.0
DRAIN_MARGIN = 1.0
_NAMED = 3


class Registration:
    """Keeps `instance` registered at the registry behind `target`, one address or several ("A,B").

    It renews the lease at a third of its time to live, registers again when the lease is gone, passes health on, and
    deregisters when it is cancelled. An empty instance id is filled in here, so that a retry registers the same one.
    """

    def __init__(
        self,
        target: str,
        instance: Instance,
        *,
        ttl: float = 15.0,
        on_event: Callable[[str], None] | None = None,
        drain: float = DRAIN_TIMEOUT,
    ) -> None:
        """Tell `on_event` in a sentence whenever something changes for the registration.

        Leaving takes up to `drain` seconds until everyone has put into force that the instance leaves; 0 does not wait.
        """
        self._targets = Targets(target)
        self._instance = instance if instance.instance_id else dataclasses.replace(instance, instance_id=_make_id())
        self._ttl = ttl
        self._on_event = on_event
        self._drain = drain
        # Set while somebody drains the instance: it may finish what it has, and leave.
        self.drained = asyncio.Event()
        self._registered = asyncio.Event()
        self._away = False
        # 0 is none.
        self._lease_id = 0
        self._told_health: tuple[Health, str] | None = None
        # There is a new health to tell, or the stream has ended.
        self._wake = asyncio.Event()

    @property
    def instance(self) -> Instance:
        """What is registered, with its id and its health as last set."""
        return self._instance

    @property
    def instance_id(self) -> str:
        return self._instance.instance_id

    @property
    def lease_id(self) -> int:
        """Return the present lease; 0 while there is none."""
        return self._lease_id

    def set_health(self, health: Health, reason: str = "") -> None:
        """Tell the registry soon, whenever that is possible."""
        if (health, reason) != (self._instance.health, self._instance.health_reason):
            self._instance = dataclasses.replace(self._instance, health=health, health_reason=reason)
            self._wake.set()

    async def registered(self) -> None:
        """Wait until the registry has taken the instance for the first time."""
        await self._registered.wait()

    async def run(self) -> None:
        """Keep the instance registered until cancelled, then deregister it.

        Raises:
            RefusedError: the registry does not take this instance.
            ReplacedError: another registration took its service and id.

        """
        try:
            while True:
                try:
                    async with control_channel(self._targets.current) as channel:
                        await self._keep(RegistryStub(channel))
                except grpc.aio.AioRpcError as error:
                    self._lost(error)
                except TimeoutError:
                    self._say_away(f"the control service at {self._targets.current} does not answer in time, retrying")
                await asyncio.sleep(self._targets.move_on())
        finally:
            await self._leave()

    async def _keep(self, stub: RegistryAsyncStub) -> None:
        """Register unless there is a lease, then renew it until that fails."""
        if not self._lease_id:
            await self._register(stub)
            self._targets.reset()
        call = stub.KeepAlive()
        call.add_done_callback(lambda _: self._wake.set())
        while True:
            health = self._instance.health, self._instance.health_reason
            request = KeepAliveRequest(lease_id=self._lease_id)
            if health != self._told_health:
                request.health, request.health_reason = health_to_proto(health[0]), health[1]
            async with asyncio.timeout(CALL_TIMEOUT):
                if not call.done():
                    await call.write(request)
                reply = await call.read()  # raises the status of a stream that has failed
            if not isinstance(reply, KeepAliveResponse):
                return  # the end of the stream
            self._targets.reset()
            if reply.state == LEASE_STATE_REPLACED:
                self._lease_id = 0
                raise ReplacedError(
                    f"another registration took '{self._instance.service}' instance '{self.instance_id}': "
                    "stop one of the two, or give them different ids"
                )
            if reply.state != LEASE_STATE_LIVE:
                self._say("the lease is gone, registering again")
                await self._register(stub)
                continue
            self._told_health = health
            self._say_back()
            self._note_drain(reply.draining)
            await self._pause(reply.ttl_seconds / 3)

    async def _register(self, stub: RegistryAsyncStub) -> None:
        self._lease_id = 0
        health = self._instance.health, self._instance.health_reason
        request = RegisterRequest(instance=instance_to_proto(self._instance), ttl_seconds=self._ttl)
        reply = await stub.Register(request, timeout=CALL_TIMEOUT)
        self._lease_id, self._told_health, self._away = reply.lease_id, health, False
        self._registered.set()
        self._say(f"registered as '{self._instance.service}' instance '{self.instance_id}'")

    async def _pause(self, seconds: float) -> None:
        """Wait until it is time to renew, or something has happened since the last wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def _lost(self, error: grpc.aio.AioRpcError) -> None:
        found = mesh_error(error, self._targets.current)
        if isinstance(found, RefusedError):
            raise found from error
        self._say_away(f"{found}, retrying")

    def _say_away(self, sentence: str) -> None:
        if not self._away:  # once, however many tries it takes
            self._away = True
            self._say(sentence)

    def _say_back(self) -> None:
        if self._away:
            self._away = False
            self._say("the control service is back, the registration goes on")

    def _say(self, sentence: str) -> None:
        if self._on_event is not None:
            self._on_event(sentence)

    def _note_drain(self, draining: bool) -> None:  # noqa: FBT001 - as the reply has it
        if draining and not self.drained.is_set():
            self.drained.set()
            self._say("somebody drains this instance: it gets no new calls")
        elif not draining and self.drained.is_set():
            self.drained.clear()
            self._say("it is no longer drained")

    async def _leave(self) -> None:
        if not self._lease_id:
            return
        lease_id, self._lease_id = self._lease_id, 0
        if self._drain > 0:
            await self._go_quietly(lease_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT):
                for _ in range(len(self._targets)):
                    if await self._deregister(lease_id):
                        self._say("deregistered")
                        return
                    self._targets.move_on()

    async def _go_quietly(self, lease_id: int) -> None:
        """Say that the instance leaves, and wait until everyone who sends calls has put that into force."""
        request = DrainRequest(lease_id=lease_id, timeout_seconds=self._drain, reason="it is leaving")
        done = DrainResponse()
        try:
            async with control_channel(self._targets.current) as channel:
                async for step in RegistryStub(channel).Drain(request, timeout=self._drain + DRAIN_MARGIN):
                    done = step
        except grpc.aio.AioRpcError:
            return  # it is away, or older than drains: its leaving is all that can be told
        if done.waiting_count:
            names = ", ".join(one.watcher for one in done.waiting[:_NAMED])
            self._say(f"left without a word from {done.waiting_count} watchers: {names}")

    async def _deregister(self, lease_id: int) -> bool:
        try:
            async with control_channel(self._targets.current) as channel:
                await RegistryStub(channel).Deregister(DeregisterRequest(lease_id=lease_id), timeout=LEAVE_TIMEOUT)
        except grpc.aio.AioRpcError:
            return False
        return True


def _make_id() -> str:
    return uuid.uuid4().hex[:16]
