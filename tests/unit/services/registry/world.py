"""A registry on a real file, with a clock that stands still."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from mesh.api.registry.v1 import EXPOSURE_INTERNAL, EXPOSURE_PUBLIC, HEALTH_SERVING, Instance, WatchResponse
from mesh.testing.clock import ManualClock
from services.registry.domain import Registry, RegistryOptions
from services.storage.kv.embedded import EmbeddedStore


class World:
    """A registry on a real file, with a clock that we move."""

    def __init__(self, path: Path, *, keep: int = 10_000, progress: float = 3600, **options: Any) -> None:
        self.clock = ManualClock()
        self._path, self._keep, self._progress, self._options = path, keep, progress, options
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        self.store = await self._stack.enter_async_context(
            EmbeddedStore.open(self._path, clock=self.clock, keep=self._keep)
        )
        self.registry = await self._stack.enter_async_context(
            Registry(
                self.store,
                RegistryOptions(progress_interval=self._progress, keep_changes=self._keep, **self._options),
                clock=self.clock if self._progress == 3600 else None,
            )
        )

    async def stop(self) -> None:
        await self._stack.aclose()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def register(self, instance_id: str, *names: str, service: str = "orders", **fields: Any) -> int:
        instance = Instance(
            service=service,
            instance_id=instance_id,
            grpc_services=names,
            **{"endpoints": ["h:1"], "exposure": EXPOSURE_INTERNAL, "health": HEALTH_SERVING, "weight": 100, **fields},
        )
        return (await self.registry.register(instance, 10)).lease_id

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.store.expire()

    def ids(self, service: str = "") -> list[str]:
        return [instance.instance_id for instance in self.registry.list(service, 5000, "").instances]

    def record(self, service: str = "orders") -> tuple[list[str], bool]:
        (record,) = self.registry.list(service, 1, "").services
        return list(record.grpc_services), record.exposure == EXPOSURE_PUBLIC

    def instance(self, instance_id: str, service: str = "orders") -> Instance:
        """Return it as callers see it."""
        (found,) = (one for one in self.registry.list(service, 5000, "").instances if one.instance_id == instance_id)
        return found


@contextlib.asynccontextmanager
async def watching(
    world: World, service: str = "", start: int = 0, cluster: str | None = None
) -> AsyncIterator[Callable[[], Any]]:
    cluster_id = world.registry.header.cluster_id if cluster is None else cluster
    async with contextlib.aclosing(world.registry.watching.watch(service, start, cluster_id)) as watch:

        async def following() -> WatchResponse:
            return WatchResponse.FromString((await asyncio.wait_for(anext(watch), 20)).data)

        yield following
