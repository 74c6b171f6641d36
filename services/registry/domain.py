"""The registry: what may happen to instances and services, over any revisioned store.

Reads come from a `View` that follows the store; writes are transactions that hold only if what they were decided on is
still so, and return when the view has caught up with them, so that whoever wrote also sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mesh.api.registry.v1 import (
    HEALTH_SERVING,
    LEASE_STATE_GONE,
    LEASE_STATE_LIVE,
    LEASE_STATE_REPLACED,
    OPINION_SOURCE_DRAIN,
    Header,
    Health,
    Instance,
    LeaseState,
    ListResponse,
)
from mesh.clock import Clock, SystemClock
from services.registry import paging, records
from services.registry.checks.checker import Checker
from services.registry.damping import DampingOptions
from services.registry.draining import Drains
from services.registry.errors import LeaseLostError
from services.registry.holding import Holding
from services.registry.keeping import Keeping
from services.registry.live import Live
from services.registry.protection import ProtectionOptions
from services.registry.view import KEEP_CHANGES, View
from services.registry.watching import PROGRESS_INTERVAL, Watching
from services.storage.kv.base import (
    Delete,
    Grant,
    LeaseNotFoundError,
    Operation,
    Put,
    StorageError,
    Store,
    unchanged,
)

# What a page holds at most, below the 4 MiB that gRPC clients take by default.
MAX_PAGE_BYTES = 3 << 20
# How often a write is decided anew because others came between; each time one of them got on.
MAX_ATTEMPTS = 100
# How often holds and protections are looked at.
TEND_INTERVAL = 0.5


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How the registry judges what happens to instances."""

    progress_interval: float = PROGRESS_INTERVAL
    keep_changes: int = KEEP_CHANGES
    protection: ProtectionOptions = field(default_factory=ProtectionOptions)
    damping: DampingOptions = field(default_factory=DampingOptions)


@dataclass(frozen=True, slots=True)
class Registered:
    header: Header
    lease_id: int
    ttl: float


class Registry:
    """Use as `async with Registry(store) as registry`."""

    def __init__(
        self, store: Store, options: RegistryOptions | None = None, *, clock: Clock | None = None, me: str = ""
    ) -> None:
        """Serve what `store` holds, as the control process `me` if there may be others."""
        options, clock = options or RegistryOptions(), clock or SystemClock()
        self._store = store
        self._clock = clock
        self._keeping = Keeping(store, options.protection, clock)
        self._live = Live(store, options.keep_changes, self._keeping)
        self._holding = Holding(store, self._live, options.damping, clock)
        self._checker = Checker(store, self._live, clock, me)
        self._options = options
        self._me = me
        self._running = contextlib.AsyncExitStack()
        self._tending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Registry:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._live)
            self.watching = await stack.enter_async_context(
                Watching(self._live, self._store.header.cluster_id, self._clock, self._options.progress_interval)
            )
            self.drains = Drains(self, self._store, self._live, self.watching.watchers, self._clock, self._me)
            await stack.enter_async_context(self._checker)
            self._tending = asyncio.create_task(self._tend())
            self._running = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._tending is not None:
            self._tending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._tending
        await self._running.aclose()

    async def tend(self) -> None:
        """Write and end holds, end protections. Called by the registry's own task; public for tests."""
        await self._holding.tend()
        await self._keeping.end(self._view)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TEND_INTERVAL)
            await self.tend()

    @property
    def _view(self) -> View:
        return self._live.view

    @property
    def header(self) -> Header:
        return Header(cluster_id=self._store.header.cluster_id, revision=self._view.revision)

    def instances(self) -> Iterator[Instance]:
        """Yield the live instances, by service and id."""
        return self._view.page("", None)

    def holds(self, lease_id: int, service: str, instance_id: str) -> bool:
        """Tell whether the lease keeps that instance: who knows it speaks for the instance."""
        return self._view.lease_key(lease_id) == (service, instance_id)

    async def register(self, instance: Instance, ttl: float) -> Registered:
        """Make a valid instance live, in the place of the one with the same service and id."""
        key = (instance.service, instance.instance_id)
        instance = _copy(instance)
        instance.ttl_seconds = ttl
        instance.registered_at_ms = self._now_ms()
        instance.serving_since_ms = instance.registered_at_ms if instance.health == HEALTH_SERVING else 0
        for _ in range(MAX_ATTEMPTS):
            lease_id = secrets.randbelow(2**63 - 1) + 1
            held = self._view.instances.get(key)
            old = held if held is not None and held.live else None
            service = self._view.services.get(instance.service)
            compares = [
                unchanged(records.instance_key(key), old.own.mod_revision if old else 0),
                unchanged(records.service_key(instance.service), service.mod_revision if service else 0),
            ]
            writes: list[Operation] = list(self._live.fitting(instance.service, instance))
            if old:
                replaced = records.encode_leases((*self._view.roster.replaced(key), old.lease_id))
                writes.append(Put(records.replaced_key(key), replaced, lease_id))
            writes.append(Put(records.instance_key(key), records.encode(instance), lease_id))
            # What was said of the one before is not said of this one.
            writes.extend(Delete(name) for name in self._view.roster.left_behind(key))
            reply = await self._store.txn(compares, writes, grant=Grant(lease_id, ttl))
            await self._live.caught_up(reply.header.revision)
            if not reply.succeeded:
                continue
            if old:
                # It keeps nothing by now. If this fails it runs out by itself.
                with contextlib.suppress(LeaseNotFoundError, StorageError):
                    await self._store.revoke(old.lease_id)
            return Registered(self._header_at(reply.header.revision), lease_id, ttl)
        raise StorageError(f"'{instance.service}' changes too fast to be written: try again")

    async def keepalive(
        self, lease_id: int, health: Health.ValueType | None = None, reason: str = ""
    ) -> tuple[LeaseState.ValueType, float]:
        """Renew a lease, with a new health if given; return its state and its seconds to live."""
        try:
            await self._key_of(lease_id)
            reply = await self._store.keepalive(lease_id)
            if health is not None:
                await self.update(lease_id, lambda one: one.MergeFrom(_in_health(one, health, reason)))
        except LeaseLostError as error:
            return error.state, 0.0
        except LeaseNotFoundError:
            return LEASE_STATE_GONE, 0.0
        return LEASE_STATE_LIVE, reply.ttl

    async def update(self, lease_id: int, change: Callable[[Instance], object]) -> tuple[Header, Instance]:
        """Apply `change` to a copy of the lease's instance and store that, if it differs.

        Raises:
            LeaseLostError: there is no such instance.

        """
        for _ in range(MAX_ATTEMPTS):
            key = await self._key_of(lease_id)
            held = self._view.instances[key]
            old = held.own
            new = _copy(old)
            change(new)
            if new == old:
                return self.header, held.instance
            if new.health != old.health and new.health == HEALTH_SERVING:
                new.serving_since_ms = self._now_ms()
            service = self._view.services.get(key[0])
            compares = (
                unchanged(records.instance_key(key), old.mod_revision),
                unchanged(records.service_key(key[0]), service.mod_revision if service else 0),
            )
            write = Put(records.instance_key(key), records.encode(new), lease_id)
            try:
                reply = await self._store.txn(compares, (*self._live.fitting(key[0], new), write))
            except LeaseNotFoundError:
                raise LeaseLostError(LEASE_STATE_GONE) from None
            await self._live.caught_up(reply.header.revision)
            if reply.succeeded:
                new.mod_revision = reply.header.revision
                now = self._view.instances.get(key)
                same = now is not None and now.own.mod_revision == new.mod_revision
                return self._header_at(reply.header.revision), now.instance if now is not None and same else new
        raise StorageError(f"'{key[0]}' changes too fast to be written: try again")

    async def deregister(self, lease_id: int) -> Header:
        """End a lease and remove its instance; nothing, if that is so already."""
        try:
            await self._key_of(lease_id)
            reply = await self._store.revoke(lease_id)
        except (LeaseLostError, LeaseNotFoundError):
            return self.header
        await self._live.caught_up(reply.revision)
        return self._header_at(reply.revision)

    def list(self, service: str, limit: int, page_token: str) -> ListResponse:
        """Return one page. What lives throughout a listing is on exactly one of its pages."""
        page = ListResponse(header=self.header)
        if not page_token:
            page.services.extend(self._view.known(service))
        size = page.ByteSize()
        for instance in self._view.page(service, paging.decode(page_token, service)):
            size += instance.ByteSize()
            if len(page.instances) == limit or (page.instances and size > MAX_PAGE_BYTES):
                last = page.instances[-1]
                page.next_page_token = paging.encode(service, (last.service, last.instance_id))
                break
            page.instances.append(instance)
        return page

    def is_drained(self, lease_id: int) -> bool:
        """Tell whether somebody drains the instance of a lease."""
        key = self._view.lease_key(lease_id)
        return key is not None and self._view.roster.opinion(OPINION_SOURCE_DRAIN, key) is not None

    def _now_ms(self) -> int:
        return self._clock.wall_ns() // 1_000_000

    def _header_at(self, revision: int) -> Header:
        return Header(cluster_id=self._store.header.cluster_id, revision=revision)

    async def _key_of(self, lease_id: int) -> records.Key:
        key = self._view.lease_key(lease_id)
        if key is None and not self._view.is_replaced(lease_id):
            await self._live.catch_up()  # another control process may have granted it just now
            key = self._view.lease_key(lease_id)
        if key is None:
            raise LeaseLostError(LEASE_STATE_REPLACED if self._view.is_replaced(lease_id) else LEASE_STATE_GONE)
        return key


def _copy(instance: Instance) -> Instance:
    made = Instance()
    made.CopyFrom(instance)
    return made


def _in_health(instance: Instance, health: Health.ValueType, reason: str) -> Instance:
    instance.ClearField("health_reason")
    return Instance(health=health, health_reason=reason)
