"""The registry: what may happen to instances and services, over any revisioned store.

Reads come from a `View` that follows the store; writes are transactions that hold only if what they were decided on is
still so, and return when the view has caught up with them, so that whoever wrote also sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass

from mesh.api.registry.v1 import (
    LEASE_STATE_GONE,
    LEASE_STATE_LIVE,
    LEASE_STATE_REPLACED,
    Header,
    Health,
    Instance,
    LeaseState,
    ListResponse,
    Progress,
    WatchResponse,
)
from mesh.errors import MeshError, Source
from services.registry import paging, records
from services.registry.live import Live
from services.registry.view import KEEP_CHANGES, Revision, View
from services.storage.kv.base import (
    Grant,
    LeaseNotFoundError,
    Put,
    StorageError,
    Store,
    unchanged,
)

# Seconds of silence after which a watch says that nothing changed.
PROGRESS_INTERVAL = 10.0
# What a page holds at most, below the 4 MiB that gRPC clients take by default.
MAX_PAGE_BYTES = 3 << 20
# Watchers of one service get the same messages, at about the same time.
MAX_RESPONSES = 256
# How often a write is decided anew because others came between; each time one of them got on.
MAX_ATTEMPTS = 100


class LeaseLostError(MeshError):
    """The lease does not keep an instance (any more)."""

    source = Source.DOWNSTREAM

    def __init__(self, state: LeaseState.ValueType) -> None:
        replaced = state == LEASE_STATE_REPLACED
        super().__init__(
            "lease_id: another registration took this service and instance id: stop, or take another id"
            if replaced
            else "lease_id: this lease is unknown or has expired: register again"
        )
        self.state = state


@dataclass(frozen=True, slots=True)
class Registered:
    header: Header
    lease_id: int
    ttl: float


class Registry:
    """Use as `async with Registry(store) as registry`."""

    def __init__(
        self, store: Store, *, progress_interval: float = PROGRESS_INTERVAL, keep_changes: int = KEEP_CHANGES
    ) -> None:
        self._store = store
        self._progress_interval = progress_interval
        self._live = Live(store, keep_changes)
        # Messages that were made for one watcher and will do for others.
        self._responses: dict[tuple[int, str], WatchResponse] = {}

    async def __aenter__(self) -> Registry:
        await self._live.__aenter__()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._live.__aexit__(*failure)

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
        for _ in range(MAX_ATTEMPTS):
            lease_id = secrets.randbelow(2**63 - 1) + 1
            old = self._view.instances.get(key)
            service = self._view.services.get(instance.service)
            compares = [
                unchanged(records.instance_key(key), old.instance.mod_revision if old else 0),
                unchanged(records.service_key(instance.service), service.mod_revision if service else 0),
            ]
            writes = list(self._live.fitting(instance.service, instance))
            if old:
                replaced = records.encode_leases((*self._view.replaced(key), old.lease_id))
                writes.append(Put(records.replaced_key(key), replaced, lease_id))
            writes.append(Put(records.instance_key(key), records.encode(instance), lease_id))
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
        self, lease_id: int, health: Health.ValueType | None = None
    ) -> tuple[LeaseState.ValueType, float]:
        """Renew a lease, with a new health if given; return its state and its seconds to live."""
        try:
            await self._key_of(lease_id)
            reply = await self._store.keepalive(lease_id)
            if health is not None:
                await self.update(lease_id, lambda instance: setattr(instance, "health", health))
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
            old = self._view.instances[key].instance
            new = _copy(old)
            change(new)
            if new == old:
                return self.header, old
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
                return self._header_at(reply.header.revision), new
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

    async def watch(self, service: str, start_revision: int, cluster_id: str) -> AsyncGenerator[WatchResponse, None]:
        """Yield a snapshot unless the changes from `start_revision` on are kept, then every change, without end."""
        loop = asyncio.get_running_loop()
        seen: int | None = None
        spoke = loop.time()
        resumes = start_revision > 0 and cluster_id == self._store.header.cluster_id
        if resumes:
            seen = start_revision - 1
            if seen > self._view.revision:
                await self._live.catch_up()  # it comes from another control process, which was ahead of this one
        while True:
            moved = self._live.moved
            kept = None if seen is None else self._view.since(seen)
            if kept is None:
                compacted, resumes, seen = resumes, True, self._view.revision
                # Not held in a variable: that would last as long as the watch.
                yield WatchResponse(
                    header=self._header_at(seen), snapshot=self._view.snapshot(service, compacted=compacted)
                )
                spoke = loop.time()
                continue
            end = self._view.revision
            for revision in kept:
                response = self._response(revision, service)
                if response is not None:
                    yield response
                    spoke = loop.time()
            seen = end
            if seen == self._view.revision and not await _happens(moved, spoke + self._progress_interval):
                yield WatchResponse(header=self._header_at(seen), progress=Progress())
                spoke = loop.time()

    def _response(self, revision: Revision, service: str) -> WatchResponse | None:
        """Return the message about a revision, the same one for all who watch `service`; None if it is not touched."""
        key = (revision.revision, service)
        response = self._responses.get(key)
        if response is None and (changes := revision.of(service)) is not None:
            if len(self._responses) == MAX_RESPONSES:
                self._responses.clear()
            response = WatchResponse(header=self._header_at(revision.revision), changes=changes)
            self._responses[key] = response
        return response

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


async def _happens(event: asyncio.Event, until: float) -> bool:
    try:
        async with asyncio.timeout_at(until):
            await event.wait()
    except TimeoutError:
        return False
    return True
