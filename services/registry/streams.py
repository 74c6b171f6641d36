"""Watch and Follow as gRPC serves them: messages are encoded already, so they are sent as the bytes they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from mesh.api.registry.v1 import FollowRequest, WatchRequest
from services.registry import validation
from services.registry.errors import TooSlowError
from services.registry.status import Context, answering
from services.registry.validation import InvalidError
from services.registry.watchers import Watcher
from services.registry.watching import MAX_WRITE_SECONDS, Message, Watching


class Streams:
    """Both methods. Their handlers must pass bytes on."""

    def __init__(self, watching: Watching) -> None:
        self._watching = watching

    async def watch(self, request: WatchRequest, context: Context) -> None:
        async with answering(context):
            await self._serve(request, context, can_acknowledge=False)

    async def follow(self, _: object, context: Context) -> None:
        async with answering(context):
            first = await context.read()
            if not isinstance(first, FollowRequest) or first.WhichOneof("request") != "watch":
                raise InvalidError("watch: it must be the first message")
            await self._serve(first.watch, context, can_acknowledge=True)

    async def _serve(self, request: WatchRequest, context: Context, *, can_acknowledge: bool) -> None:
        service = request.service and validation.service_name(request.service, "service")
        watching = self._watching
        watcher = Watcher(
            name=validation.label(request.watcher, "watcher"),
            peer=context.peer(),
            service=service,
            can_acknowledge=can_acknowledge,
            task=asyncio.current_task(),
        )
        if watching.same_cluster(request.cluster_id):
            watcher.acknowledged = max(0, request.start_revision - 1)
        watching.watchers.join(watcher)
        updates = watching.watch(service, request.start_revision, request.cluster_id, batches=request.accepts_batches)
        reader = _Acknowledgements(watching, watcher, context) if can_acknowledge else None
        try:
            async with contextlib.aclosing(updates):
                await self._send(updates, watcher, context, reader)
        except asyncio.CancelledError:
            if watcher.cut:
                raise TooSlowError(
                    f"this watcher took nothing for {MAX_WRITE_SECONDS:g} s: resume behind the last revision it has"
                ) from None
            raise
        finally:
            watching.watchers.leave(watcher)
            if reader is not None:
                await reader.close()

    async def _send(
        self,
        updates: AsyncGenerator[Message, None],
        watcher: Watcher,
        context: Context,
        reader: _Acknowledgements | None,
    ) -> None:
        now = self._watching.now
        async for message in updates:
            watcher.writing_since = now()
            await context.write(message.data)
            watcher.writing_since = 0.0
            if message.acknowledge and reader is not None:
                reader.expect(message.revision)
            del message  # a snapshot is large, and the next one may be long in coming


class _Acknowledgements:
    """Reads what a watcher says, only while something is expected: no task for each watcher that has nothing to say."""

    def __init__(self, watching: Watching, watcher: Watcher, context: Context) -> None:
        self._watching = watching
        self._watcher = watcher
        self._context = context
        self._expected = 0
        self._reading: asyncio.Task[None] | None = None

    def expect(self, revision: int) -> None:
        self._expected = max(self._expected, revision)
        if self._watcher.can_acknowledge and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        while self._watcher.acknowledged < self._expected:
            said = await self._context.read()
            if not isinstance(said, FollowRequest):
                self._watcher.can_acknowledge = False  # it has closed its side
                return
            if said.WhichOneof("request") == "acknowledged":
                self._watching.watchers.acknowledge(self._watcher, said.acknowledged.revision)
