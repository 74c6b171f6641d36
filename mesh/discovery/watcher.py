"""A live copy of the registry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from mesh.api.registry.v1 import Acknowledgement, FollowRequest, RegistryStub, WatchRequest, WatchResponse
from mesh.clock import Clock, SystemClock
from mesh.discovery.channel import control_channel
from mesh.discovery.convert import advance
from mesh.discovery.disk import SnapshotFile
from mesh.discovery.guard import SnapshotGuard
from mesh.discovery.model import Directory
from mesh.discovery.targets import Targets

if TYPE_CHECKING:
    from mesh.api.registry.v1.registry_pb2_grpc import RegistryAsyncStub  # exists for type checkers only

# The registry speaks every 10 s at least: after this silence it, or something between, is stuck.
LONGEST_SILENCE = 35.0
# How long the control plane may take to answer before the state on disk is taken into force.
DISK_AFTER = 1.0

_log = logging.getLogger(__name__)


class RegistryWatcher:
    """Follows the registry at `target`; calls `on_change` in the loop after every applied update.

    It resumes where it was, or begins again with a snapshot where the registry says so, reconnects by itself, to the
    next address where `target` has several, and goes on with the last directory while the registry is away. What it was
    asked to acknowledge it acknowledges when `on_change` has returned: then it is in force.
    """

    def __init__(
        self,
        target: str,
        on_change: Callable[[Directory], None],
        *,
        service: str = "",
        name: str = "",
        state: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Follow `service` only, if it is given, as the watcher `name`; what `on_change` raises ends `run`.

        With the file `state` it starts with the last directory of the run before when no control process answers.
        """
        self._targets = Targets(target)
        self._on_change = on_change
        self._service = service
        self._name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._file = SnapshotFile(state) if state is not None else None
        self._guard = SnapshotGuard(clock or SystemClock())
        self._synced = asyncio.Event()
        # Older control processes have no Follow.
        self._follows = True
        # What the registry says, and what is in force: more, where it is not to be believed yet.
        self._said = Directory.EMPTY
        self.directory = Directory.EMPTY
        self.connected = False
        # Whether what is in force comes from the disk, and has not been confirmed.
        self.from_disk = False

    @property
    def held(self) -> int:
        """How many instances are in force that the registry, which began anew, does not know (yet)."""
        return self._guard.held

    async def synced(self) -> None:
        """Wait until the first snapshot has been applied, that of the disk included."""
        await self._synced.wait()

    async def run(self) -> None:
        """Follow until cancelled, whatever the network does."""
        tasks = [asyncio.create_task(self._release())]
        if self._file is not None:
            tasks += [asyncio.create_task(self._file.run()), asyncio.create_task(self._start_from_disk(self._file))]
        try:
            await self._run()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                # A new channel each time: it connects at once, where an old one may sit out a backoff of its own.
                async with control_channel(self._targets.current) as channel:
                    await self._follow(RegistryStub(channel))
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED and self._follows:
                    self._follows = False
                    continue
            except TimeoutError:
                pass
            finally:
                self.connected = False
            await asyncio.sleep(self._targets.move_on())
            # The next one may be newer.
            self._follows = True

    async def _follow(self, stub: RegistryAsyncStub) -> None:
        request = WatchRequest(service=self._service, watcher=self._name, accepts_batches=True)
        if self._said.cluster_id:
            request.start_revision = self._said.revision + 1
            request.cluster_id = self._said.cluster_id
        call: Any
        if self._follows:
            call = stub.Follow()
            async with asyncio.timeout(LONGEST_SILENCE):
                await call.write(FollowRequest(watch=request))
        else:
            call = stub.Watch(request)
        while True:
            async with asyncio.timeout(LONGEST_SILENCE):
                response = await call.read()
            if not isinstance(response, WatchResponse):
                return  # the end of the stream
            self._targets.reset()
            self.connected = True
            self._apply(response)
            if response.acknowledge and self._follows:
                acknowledged = Acknowledgement(revision=response.header.revision)
                async with asyncio.timeout(LONGEST_SILENCE):
                    await call.write(FollowRequest(acknowledged=acknowledged))

    def _apply(self, response: WatchResponse) -> None:
        before, self._said = self._said, advance(self._said, response)
        update = response.WhichOneof("update")
        if update == "progress" and before.cluster_id == self._said.cluster_id:
            return
        if update == "snapshot":
            in_force = self._guard.snapshot(self.directory, self._said)
            if self._guard.held:
                _log.warning(
                    "the registry has begun anew and knows %d of %d instances: the others stay in force for a while",
                    len(self._said.instances),
                    len(in_force.instances),
                )
        else:
            in_force = self._guard.changed(self._said)
        if self.from_disk:
            self.from_disk = False
            _log.info("the registry answers: the state from the disk has been replaced")
        self._take(in_force)
        if self._file is not None:
            self._file.put(in_force)

    def _take(self, directory: Directory) -> None:
        self.directory = directory
        self._on_change(directory)
        self._synced.set()

    async def _start_from_disk(self, file: SnapshotFile) -> None:
        """Take the last state of the run before when nobody answers soon."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISK_AFTER):
                await self._synced.wait()
                return
        found = await asyncio.to_thread(file.load)
        if found is None or self._synced.is_set():
            return
        _log.warning(
            "no registry answers: starting with the last state, of revision %d with %d instances, from %s",
            found.revision,
            len(found.instances),
            file.path,
        )
        self.from_disk = True
        self._take(found)

    async def _release(self) -> None:
        """Let go of what a registry that began anew does not know, when its time is over."""
        while True:
            left = self._guard.seconds_left()
            await asyncio.sleep(1.0 if left is None else min(left, 1.0))
            if left is not None and self._guard.seconds_left() == 0.0:
                self._take(self._guard.changed(self._said))
