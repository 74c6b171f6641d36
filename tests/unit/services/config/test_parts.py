"""What cannot be seen from outside in a reasonable time: sweeping, losing the thread, counting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path

import pytest

from mesh.api.config.v1 import APPLIED_STATE_APPLIED
from mesh.api.registry.v1 import Instance
from mesh.testing import ManualClock
from services.config import editing
from services.config.applied import KEPT_MS
from services.config.domain import Config
from services.config.errors import QuotaError
from services.config.layers import Layer, Target
from services.config.records import Applied
from services.config.text import Format
from services.config.watching import Seen, Update
from services.storage.kv.base import Batch, CompactedError
from services.storage.kv.embedded import EmbeddedStore


class Nobody:
    """A registry that knows the instances it is told."""

    def __init__(self, *instances: Instance) -> None:
        self.live = list(instances)

    def instances(self) -> Iterable[Instance]:
        return self.live

    def holds(self, lease_id: int, service: str, instance_id: str) -> bool:
        return False


@contextlib.asynccontextmanager
async def configured(folder: Path, fleet: Nobody, clock: ManualClock | None = None) -> AsyncIterator[Config]:
    async with (
        EmbeddedStore.open(folder / "kv.db") as store,
        Config(store, fleet, clock=clock, progress_interval=0.01) as config,
    ):
        yield config


def report(clock: ManualClock) -> Applied:
    return Applied("", {}, 0, "0" * 64, APPLIED_STATE_APPLIED, "", clock.wall_ns() // 1_000_000)


async def test_reports_of_those_that_are_gone_are_forgotten_after_a_while(tmp_path: Path) -> None:
    clock = ManualClock()
    fleet = Nobody(Instance(service="orders", instance_id="stays"))
    async with configured(tmp_path, fleet, clock) as config:
        await config.editor.put("shop", Layer(), "a: 1", Format.YAML, "ann", None)
        app = (await config.repository.app("shop")).value
        for name in ("stays", "leaves"):
            await config.reports.report("shop", ("orders", name), report(clock))
        before = config.store.header.revision
        await config.reports.report("shop", ("orders", "stays"), report(clock))
        assert config.store.header.revision == before  # the same again is not written
        await config.reports.sweep()
        assert [row.key[1] for row in await config.reports.rows(app)] == ["leaves", "stays"]
        clock.advance(KEPT_MS / 1000 + 1)
        await config.reports.sweep()
        assert [row.key[1] for row in await config.reports.rows(app)] == ["stays"]


class Forgetful(EmbeddedStore):
    """A store that once says that it has lost the thread."""

    forgotten = False

    async def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[Batch, None]:
        async with contextlib.aclosing(super().watch(prefix, start_revision)) as changes:
            async for batch in changes:
                if batch.events and not self.forgotten:
                    self.forgotten = True
                    raise CompactedError(batch.revision)
                yield batch


async def test_a_watch_goes_on_when_the_store_has_lost_the_thread(tmp_path: Path) -> None:
    async with (
        Forgetful.open(tmp_path / "kv.db") as store,
        Config(store, Nobody()) as config,
        contextlib.aclosing(config.watches.watch("shop", Target(), 0, Seen())) as updates,
    ):
        assert (await anext(updates)).content == "{}"
        for number in (1, 2):
            await config.editor.put("shop", Layer(), f"a: {number}", Format.YAML, "ann", None)
            await config.releaser.publish("shop", "ann", "", None, None)
            assert (await anext(updates)).content == f'{{"a":{number}}}'
    assert isinstance(store, Forgetful)
    assert store.forgotten


async def test_a_quiet_watch_says_so_and_one_from_elsewhere_waits(tmp_path: Path) -> None:
    async with configured(tmp_path, Nobody()) as config:
        ahead = config.store.header.revision + 2
        updates = config.watches.watch("shop", Target(), 0, Seen(ahead))
        first: asyncio.Task[Update] = asyncio.ensure_future(anext(updates))
        for number in (1, 2):
            assert not first.done()
            await config.editor.put("shop", Layer(), f"a: {number}", Format.YAML, "ann", None)
        assert (await first).content == "{}"
        assert (await anext(updates)).effective is None
        await updates.aclose()


async def test_layers_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "MAX_LAYERS", 2)
    monkeypatch.setattr(editing, "MAX_APPLICATIONS", 1)
    async with configured(tmp_path, Nobody()) as config:

        async def put(name: str, service: str) -> None:
            await config.editor.put(name, Layer(service=service), f"a: {service}", Format.YAML, "ann", None)

        await put("shop", "a")
        await put("shop", "b")
        await put("shop", "b")
        with pytest.raises(QuotaError, match="2 layers"):
            await put("shop", "c")
        with pytest.raises(QuotaError, match="1 applications"):
            await put("other", "a")
