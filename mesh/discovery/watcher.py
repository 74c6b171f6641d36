"""A live copy of the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc

from mesh.api.registry.v1 import RegistryStub, WatchRequest, WatchResponse
from mesh.discovery.channel import control_channel
from mesh.discovery.convert import advance
from mesh.discovery.model import Directory
from mesh.discovery.targets import Targets

if TYPE_CHECKING:
    from mesh.api.registry.v1.registry_pb2_grpc import RegistryAsyncStub  # exists for type checkers only

# The registry speaks every 10 s at least: after this silence it, or something between, is stuck.
LONGEST_SILENCE = 35.0


class RegistryWatcher:
    """Follows the registry at `target`; calls `on_change` in the loop after every applied update.

    It resumes where it was, or begins again with a snapshot where the registry says so, reconnects by itself, to the
    next address where `target` has several, and goes on with the last directory while the registry is away.
    """

    def __init__(self, target: str, on_change: Callable[[Directory], None], *, service: str = "") -> None:
        """Follow `service` only, if it is given. What `on_change` raises ends `run`."""
        self._targets = Targets(target)
        self._on_change = on_change
        self._service = service
        self._synced = asyncio.Event()
        self.directory = Directory.EMPTY
        self.connected = False

    async def synced(self) -> None:
        """Wait until the first snapshot has been applied."""
        await self._synced.wait()

    async def run(self) -> None:
        """Follow until cancelled, whatever the network does."""
        while True:
            try:
                # A new channel each time: it connects at once, where an old one may sit out a backoff of its own.
                async with control_channel(self._targets.current) as channel:
                    await self._follow(RegistryStub(channel))
            except (grpc.aio.AioRpcError, TimeoutError):
                pass
            finally:
                self.connected = False
            await asyncio.sleep(self._targets.move_on())

    async def _follow(self, stub: RegistryAsyncStub) -> None:
        request = WatchRequest(service=self._service)
        if self.directory.cluster_id:
            request.start_revision = self.directory.revision + 1
            request.cluster_id = self.directory.cluster_id
        call = stub.Watch(request)
        while True:
            async with asyncio.timeout(LONGEST_SILENCE):
                response = await call.read()
            if not isinstance(response, WatchResponse):
                return  # the end of the stream
            self._targets.reset()
            self.connected = True
            self._apply(response)

    def _apply(self, response: WatchResponse) -> None:
        before, self.directory = self.directory, advance(self.directory, response)
        if response.WhichOneof("update") == "progress" and before.cluster_id == self.directory.cluster_id:
            return
        self._on_change(self.directory)
        self._synced.set()
