"""Config in memory: one document an application, for all instances alike."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import grpc

from mesh.api.config import v1
from mesh.testing.memory.registry import CLUSTER, PROGRESS_SECONDS

Context = grpc.aio.ServicerContext[Any, Any]


class MemoryConfig(v1.ConfigServicer):
    """Each `publish` is a release; what instances made of it is in `applied`."""

    def __init__(self) -> None:
        self._released: dict[str, tuple[int, str]] = {}
        self._changed = asyncio.Condition()
        self._revision = 1
        # Who follows what now, by application and instance.
        self._followed: list[tuple[str, str]] = []
        # By application and instance: the last report.
        self.applied: dict[tuple[str, str], v1.ReportAppliedRequest] = {}

    async def publish(self, application: str, content: Mapping[str, Any]) -> int:
        """Release `content` to every instance that follows `application`; returns the release's number."""
        release = self._released.get(application, (0, ""))[0] + 1
        self._revision += 1
        self._released[application] = release, json.dumps(content)
        await self._tell()
        return release

    async def reported(self, application: str, release: int) -> dict[str, str]:
        """Wait until everybody who follows `application` has said what came of a release.

        Returns by instance why it was rejected; "" is that it was not.
        """

        def missing() -> bool:
            return any(
                name == application and getattr(self.applied.get((name, instance)), "release", 0) < release
                for name, instance in self._followed
            )

        async with self._changed:
            await self._changed.wait_for(lambda: not missing())
        return {instance: one.error for (name, instance), one in self.applied.items() if name == application}

    async def Watch(self, request: v1.WatchRequest, context: Context) -> AsyncIterator[v1.WatchResponse]:
        followed = request.application, request.instance
        if request.instance:
            self._followed.append(followed)
        try:
            async for response in self._updates(request):
                yield response
        finally:
            if request.instance:
                self._followed.remove(followed)
            await self._tell()

    async def _updates(self, request: v1.WatchRequest) -> AsyncIterator[v1.WatchResponse]:
        known = (request.release, request.checksum) if request.seen.cluster_id == CLUSTER else None
        first = True
        while True:
            now = self._effective(request.application)
            if first or known is None or known[0] != now.release:
                header = v1.Header(cluster_id=CLUSTER, revision=self._revision)
                update = v1.Update(release=now.release, checksum=now.checksum)
                if known is not None and known[1] == now.checksum:
                    update.unchanged = True
                else:
                    update.inline.CopyFrom(now)
                known, first = (now.release, now.checksum), False
                yield v1.WatchResponse(header=header, changed=update)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROGRESS_SECONDS), self._changed:
                    await self._changed.wait_for(partial(self._has_newer, request.application, now.release))
                    continue
            header = v1.Header(cluster_id=CLUSTER, revision=self._revision)
            yield v1.WatchResponse(header=header, progress=v1.Progress())

    async def GetEffective(self, request: v1.GetEffectiveRequest, context: Context) -> v1.GetEffectiveResponse:
        header = v1.Header(cluster_id=CLUSTER, revision=self._revision)
        return v1.GetEffectiveResponse(header=header, effective=self._effective(request.application))

    async def ReportApplied(self, request: v1.ReportAppliedRequest, context: Context) -> v1.ReportAppliedResponse:
        self.applied[request.application, request.instance] = request
        await self._tell()
        return v1.ReportAppliedResponse(header=v1.Header(cluster_id=CLUSTER, revision=self._revision))

    def _has_newer(self, application: str, release: int) -> bool:
        return self._effective(application).release != release

    def _effective(self, application: str) -> v1.Effective:
        release, text = self._released.get(application, (0, "{}"))
        return v1.Effective(release=release, checksum=hashlib.sha256(text.encode()).hexdigest(), content_json=text)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
