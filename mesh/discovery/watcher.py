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
# After changes came into force, the next ones wait this many times as long as that took, and no longer than this.
RESTS = 3.0
LONGEST_REST = 1.0

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
        self._clock = clock or SystemClock()
        self._guard = SnapshotGuard(self._clock)
        self._synced = asyncio.Event()
        # Older control processes have no Follow.
        self._follows = True
        # What the registry says, and what is in force: more, where it is not to be believed yet.
        self._said = Directory.EMPTY
        self.directory = Directory.EMPTY
        # What comes into force next, when that may be, and the revision to acknowledge then.
        self._next: Directory | None = None
        self._rest_until = 0.0
        self._to_acknowledge = 0
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
        reading: asyncio.Future[Any] | None = None
        try:
            while True:
                # Not cancelled when the time is over: that would cancel the call.
                reading = reading or asyncio.ensure_future(call.read())
                wait = LONGEST_SILENCE if self._next is None else self._rest_until - self._clock.now()
                await asyncio.wait((reading,), timeout=max(0.0, wait))
                if reading.done():
                    response, reading = reading.result(), None
                    if not isinstance(response, WatchResponse):
                        return  # the end of the stream
                    self._targets.reset()
                    self.connected = True
                    self._learn(response)
                    if self._next is not None and self._clock.now() < self._rest_until:
                        continue
                elif self._next is None:
                    raise TimeoutError
                self._come_into_force()
                if self._to_acknowledge and self._follows:
                    acknowledged = Acknowledgement(revision=self._to_acknowledge)
                    self._to_acknowledge = 0
                    async with asyncio.timeout(LONGEST_SILENCE):
                        await call.write(FollowRequest(acknowledged=acknowledged))
        finally:
            self._to_acknowledge = 0
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            self._come_into_force()

    def _come_into_force(self) -> None:
        """Take what was learnt, and rest in proportion to what that cost.

        Much that changes at a time comes into force together: what compiles routes must not be busy with it for ever.
        """
        if self._next is None:
            return
        directory, self._next = self._next, None
        began = self._clock.now()
        self._take(directory)
        ended = self._clock.now()
        self._rest_until = ended + min(LONGEST_REST, RESTS * (ended - began))
        if self._file is not None:
            self._file.put(directory)

    def _learn(self, response: WatchResponse) -> None:
        if response.acknowledge:
            self._to_acknowledge = response.header.revision
        before, self._said = self._said, advance(self._said, response)
        update = response.WhichOneof("update")
        if update == "progress" and before.cluster_id == self._said.cluster_id:
            return
        if update == "snapshot":
            in_force = self._guard.snapshot(self._next or self.directory, self._said)
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
        self._next = in_force

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
