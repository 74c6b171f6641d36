"""Which instances there are, as metrics: `mesh_instance_up` of every registered one, whether it has metrics or not.

It is 1 while the instance is registered. When its lease runs out, because it died or cannot be reached, it is 0 for
some time, which is what the alert "instance down" looks at; when it leaves in order, the series ends. However it left,
the series that it pushed end then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

import numpy as np

from mesh.api.registry.v1 import REMOVAL_CAUSE_EXPIRED, Instance, WatchResponse
from mesh.errors import MeshError
from services.metrics.promql.data import STALE, is_stale
from services.metrics.promql.labels import NAME, from_mapping, get
from services.metrics.promql.parse import parse_selector
from services.metrics.promql.plan import Fetch
from services.metrics.pull.targets import Target, targets
from services.metrics.samples import Meta, Samples, source_of
from services.metrics.store import MetricStore
from services.registry.domain import Registry

METRIC = "mesh_instance_up"
SOURCE = "registry"
RETRY_SECONDS = 1.0

_META = {METRIC: Meta("gauge", "", "1 while the instance is registered, 0 after its lease ran out.")}

_log = logging.getLogger(__name__)

Key = tuple[str, str]


class Presence:
    """Follows the registry: run it as a task with `run`, and `beat` as another."""

    def __init__(self, registry: Registry, store: MetricStore, follow: Callable[[Iterable[Target]], None]) -> None:
        """Tell `follow` the targets whenever they may have changed."""
        self._registry = registry
        self._store = store
        self._follow = follow
        self._live: dict[Key, Instance] = {}
        # Since when an instance is lost, in milliseconds.
        self.lost: dict[Key, int] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Follow the registry, without end."""
        updates = self._registry.watching.watch("", 0, "")
        async with contextlib.aclosing(updates):
            async for message in updates:
                await self._apply(WatchResponse.FromString(message.data))

    async def beat(self) -> None:
        """Write down who is there: at every interval, and at once when that changes."""
        await self._remember()
        while True:
            self._changed.clear()
            now = self._store.now_ms()
            horizon = now - round(self._store.options.down_kept * 1000)
            over = [key for key, since in self.lost.items() if since < horizon]
            for key in over:
                del self.lost[key]
            values = {**dict.fromkeys(over, STALE), **dict.fromkeys(self.lost, 0.0), **dict.fromkeys(self._live, 1.0)}
            await self._write(values, now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._store.options.scrape_interval):
                    await self._changed.wait()

    async def _apply(self, update: WatchResponse) -> None:
        left: list[Key] = []
        before = frozenset(self._live)
        if update.HasField("snapshot"):
            self._live = {(one.service, one.instance_id): one for one in update.snapshot.instances}
        elif update.HasField("changes"):
            for change in update.changes.changes:
                if change.HasField("instance"):
                    key = (change.instance.service, change.instance.instance_id)
                    self._live[key] = change.instance
                elif change.HasField("removed"):
                    key = (change.removed.service, change.removed.instance_id)
                    self._live.pop(key, None)
                    if change.removed.cause == REMOVAL_CAUSE_EXPIRED:
                        self.lost[key] = self._store.now_ms()
                    else:
                        self.lost.pop(key, None)
                        left.append(key)
        else:
            return
        for key in self._live:
            self.lost.pop(key, None)
        self._follow(targets(self._live.values()).values())
        if left:
            await self._write(dict.fromkeys(left, STALE), self._store.now_ms())
        for key in before - self._live.keys():
            await self._end(key)
        self._changed.set()

    async def _end(self, key: Key) -> None:
        """End the series that an instance pushed; those that were scraped of it the scraper ends."""
        source = source_of(*key)
        if len(markers := self._store.ending(source)):
            await self._append(markers, source)
        self._store.forget_source(source)

    async def _remember(self) -> None:
        """Go on counting as lost who was so before this process started."""
        now = self._store.now_ms()
        start = now - round(self._store.options.down_kept * 1000)
        try:
            block = await self._store.fetch(Fetch(parse_selector(METRIC), start, now))
        except MeshError as error:
            _log.warning("who was lost before the start is not known: %s", error)
            return
        for i, labels in enumerate(block.labels):
            values = block.values[block.starts[i] : block.starts[i + 1]]
            ts = block.ts[block.starts[i] : block.starts[i + 1]]
            key = get(labels, "job"), get(labels, "instance")
            if len(values) and values[-1] == 0 and not is_stale(values[-1:])[0] and key not in self._live:
                well = np.flatnonzero(values != 0)
                self.lost.setdefault(key, int(ts[well[-1] + 1 if len(well) else 0]))

    async def _write(self, values: dict[Key, float], at_ms: int) -> None:
        if not values:
            return
        count = len(values)
        samples = Samples(
            [from_mapping({NAME: METRIC, "job": key[0], "instance": key[1]}) for key in values],
            np.arange(count, dtype=np.int64),
            np.full(count, at_ms, np.int64),
            np.array(list(values.values()), np.float64),
            _META,
        )
        await self._append(samples, SOURCE)

    async def _append(self, samples: Samples, source: str) -> None:
        try:
            await self._store.append(samples, source=source)
        except MeshError as error:
            _log.warning("which instances there are, or are no more, could not be stored: %s", error)
