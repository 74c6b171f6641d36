"""What every instance runs: reports, beside what the registry and the releases say it should be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from mesh.api.config.v1 import AppliedState
from mesh.api.registry.v1 import Instance
from services.config import records
from services.config.effective import assigned
from services.config.fleet import Fleet
from services.config.layers import Target
from services.config.records import App, Applied
from services.config.repository import Repository
from services.config.watching import Watches
from services.storage.kv.base import Delete, KvError, unchanged

# The report of an instance that is gone is kept so long, for those who come back and for those who look what was.
KEPT_MS = 10 * 60 * 1000
SWEEP_INTERVAL = 60.0
_SWEPT_AT_ONCE = 100

# Service and instance.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One instance that uses the application."""

    key: Key
    environment: str
    live: bool
    watching: bool
    wanted: int
    report: Applied | None

    @property
    def lags(self) -> bool:
        """Whether it lives and is not known to have applied what it shall run."""
        return self.live and not self.runs(self.wanted)

    def runs(self, release: int) -> bool:
        """Tell whether it reported that it applied the release."""
        applied = self.report is not None and self.report.state == AppliedState.APPLIED_STATE_APPLIED
        return applied and self.report is not None and self.report.release == release


class Reports:
    """The reports of all instances. Use as `async with Reports(...)`: it sweeps meanwhile."""

    def __init__(self, repository: Repository, fleet: Fleet, watches: Watches) -> None:
        self._repository = repository
        self._fleet = fleet
        self._watches = watches
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Reports:
        self._task = asyncio.create_task(self._sweeps())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def report(self, name: str, key: Key, applied: Applied) -> int:
        """Keep a report; return the revision. The same one again writes nothing."""
        if applied.release:
            await self._repository.release(name, applied.release)
        stored = records.key("applied", name, "/".join(key))
        before = await self._repository.store.get(stored)
        if before is not None and records.same_report(records.decode_applied(before.value), applied):
            return self._repository.store.header.revision
        return (await self._repository.store.put(stored, records.encode_applied(applied))).header.revision

    async def rows(self, app: App) -> list[Row]:
        """Return every instance that uses the application, by service and instance."""
        prefix = records.key("applied", app.name, "")
        kvs = (await self._repository.store.range(prefix, prefix=True)).kvs
        reports = {_key(kv.key.removeprefix(prefix)): records.decode_applied(kv.value) for kv in kvs}
        live = {(one.service, one.instance_id): one for one in self._fleet.instances()}
        watchers = self._watches.watchers(app.name)
        mine = await self._services(app)
        keys = reports.keys() | watchers.keys() | {key for key in live if key[0] in mine}
        return [self._row(app, key, reports.get(key), live.get(key), watchers.get(key)) for key in sorted(keys)]

    async def sweep(self) -> None:
        """Forget the reports of instances that have long been gone. Called by its own task; public for tests."""
        live = {(one.service, one.instance_id) for one in self._fleet.instances()}
        oldest = self._repository.now_ms() - KEPT_MS
        gone = [
            kv
            for kv in (await self._repository.store.range(records.APPLIED, prefix=True)).kvs
            if _key(kv.key.removeprefix(records.APPLIED).partition("/")[2]) not in live
            and records.decode_applied(kv.value).time_ms < oldest
        ]
        for begin in range(0, len(gone), _SWEPT_AT_ONCE):
            part = gone[begin : begin + _SWEPT_AT_ONCE]
            compares = [unchanged(kv.key, kv.mod_revision) for kv in part]
            await self._repository.store.txn(compares, [Delete(kv.key) for kv in part])

    def _row(
        self, app: App, key: Key, report: Applied | None, instance: Instance | None, watcher: Target | None
    ) -> Row:
        target = watcher or _target(key, report, instance)
        return Row(
            key=key,
            environment=target.environment,
            live=instance is not None,
            watching=watcher is not None,
            wanted=assigned(app, target),
            report=report,
        )

    async def _services(self, app: App) -> set[str]:
        """Return the services that the application is for, as far as its name and its releases tell."""
        releases = [number for number in (app.stable, app.gray.release if app.gray else 0) if number]
        found: Iterable[str] = (
            layer.service
            for release in await self._repository.releases(app.name, releases)
            for layer in release.manifest
            if layer.service
        )
        return {app.name, *found}

    async def _sweeps(self) -> None:
        while True:
            with contextlib.suppress(KvError):  # a full disk, say: the next time may do
                await self.sweep()
            await asyncio.sleep(SWEEP_INTERVAL)


def _key(text: str) -> Key:
    service, _, instance = text.partition("/")
    return service, instance


def _target(key: Key, report: Applied | None, instance: Instance | None) -> Target:
    """Return what is known of an instance that does not watch here: by its last word, else by its registration."""
    if report is not None:
        return Target(key[0], report.environment, key[1], report.labels)
    if instance is None:
        return Target(key[0], "", key[1])
    labels = {**instance.metadata, "version": instance.version, "zone": instance.zone}
    return Target(key[0], instance.metadata.get("environment", ""), key[1], labels)
