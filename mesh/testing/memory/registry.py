"""The registry in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from mesh.api.registry import v1
from mesh.clock import Clock

Context = grpc.aio.ServicerContext[Any, Any]

CLUSTER = "in-memory"
DEFAULT_TTL = 15.0
DRAIN_SECONDS = 5.0
# A watcher hears something that often, as from the real one.
PROGRESS_SECONDS = 5.0
_MISSING = (grpc.StatusCode.NOT_FOUND, "this lease is unknown, expired or replaced: register again")


@dataclass(slots=True)
class _Lease:
    key: tuple[str, str]
    ttl: float
    ends: float


@dataclass(eq=False, slots=True)
class _Watcher:
    name: str
    service: str
    # Follow, not Watch: it acknowledges.
    acknowledges: bool
    queue: asyncio.Queue[v1.WatchResponse] = field(default_factory=asyncio.Queue)
    # The last revision that it was told, and that it has put into force.
    told: int = 0
    acknowledged: int = 0


class MemoryRegistry(v1.RegistryServicer):
    """Leases end by `clock`, whenever `expire` is called."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._instances: dict[tuple[str, str], v1.Instance] = {}
        self._services: dict[str, v1.Service] = {}
        self._leases: dict[int, _Lease] = {}
        self._replaced: set[int] = set()
        self._watchers: set[_Watcher] = set()
        self._changed = asyncio.Condition()
        self._next_lease = 1
        self.revision = 1

    @property
    def instances(self) -> list[v1.Instance]:
        """What is registered now."""
        return list(self._instances.values())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the registry's state, or what was acknowledged of it, makes `condition` true."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def settled(self) -> None:
        """Wait until everybody who follows the registry has put into force what it says now."""
        revision = self.revision
        await self.until(lambda: not self._behind(revision))

    async def expire(self) -> None:
        """End the leases whose time is over."""
        now = self._clock.now()
        await self._remove([number for number, lease in self._leases.items() if lease.ends <= now], "EXPIRED")

    async def end_leases_of(self, service: str, instance_id: str) -> None:
        """End an instance's lease now, as if its time were over."""
        await self._remove([n for n, lease in self._leases.items() if lease.key == (service, instance_id)], "EXPIRED")

    async def Register(self, request: v1.RegisterRequest, context: Context) -> v1.RegisterResponse:
        instance = v1.Instance()
        instance.CopyFrom(request.instance)
        if not instance.service or not instance.endpoints:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an instance has a service and endpoints")
        number = self._next_lease
        self._next_lease += 1
        instance.instance_id = instance.instance_id or f"instance-{number}"
        instance.health = instance.health or v1.HEALTH_SERVING
        if not instance.HasField("weight"):
            instance.weight = 100
        key = instance.service, instance.instance_id
        for other in [n for n, lease in self._leases.items() if lease.key == key]:
            del self._leases[other]
            self._replaced.add(other)
        ttl = instance.ttl_seconds = request.ttl_seconds or DEFAULT_TTL
        self._leases[number] = _Lease(key, ttl, self._clock.now() + ttl)
        instance.create_revision = self.revision + 1
        instance.registered_at_ms = instance.serving_since_ms = self._clock.wall_ns() // 1_000_000
        await self._commit([v1.Change(instance=instance), *self._known(instance)])
        return v1.RegisterResponse(
            header=self._header(), lease_id=number, instance_id=instance.instance_id, ttl_seconds=ttl
        )

    async def KeepAlive(
        self, request_iterator: AsyncIterator[v1.KeepAliveRequest], context: Context
    ) -> AsyncIterator[v1.KeepAliveResponse]:
        async for request in request_iterator:
            lease = self._leases.get(request.lease_id)
            reply = v1.KeepAliveResponse(header=self._header(), lease_id=request.lease_id)
            if lease is None:
                replaced = request.lease_id in self._replaced
                reply.state = v1.LEASE_STATE_REPLACED if replaced else v1.LEASE_STATE_GONE
            else:
                lease.ends = self._clock.now() + lease.ttl
                if request.health:
                    await self._set_health(lease, request.health, request.health_reason)
                reply.state, reply.ttl_seconds = v1.LEASE_STATE_LIVE, lease.ttl
                reply.draining = self._instances[lease.key].health == v1.HEALTH_DRAINING
            yield reply

    async def Update(self, request: v1.UpdateRequest, context: Context) -> v1.UpdateResponse:
        lease = self._leases.get(request.lease_id)
        if lease is None:
            await context.abort(*_MISSING)
        instance = v1.Instance()
        instance.CopyFrom(self._instances[lease.key])
        for name in ("version", "zone", "weight", "health_reason", "warm_up_seconds"):
            if request.HasField(name):
                setattr(instance, name, getattr(request, name))
        instance.exposure = request.exposure or instance.exposure
        instance.health = request.health or instance.health
        if request.HasField("endpoints"):
            instance.endpoints[:] = request.endpoints.endpoints
        if request.HasField("grpc_services"):
            instance.grpc_services[:] = request.grpc_services.grpc_services
        if request.HasField("metadata"):
            instance.metadata.clear()
            instance.metadata.update(request.metadata.metadata)
        await self._commit([v1.Change(instance=instance), *self._known(instance)])
        return v1.UpdateResponse(header=self._header(), instance=instance)

    async def Deregister(self, request: v1.DeregisterRequest, context: Context) -> v1.DeregisterResponse:
        await self._remove([request.lease_id] if request.lease_id in self._leases else [], "DEREGISTERED")
        return v1.DeregisterResponse(header=self._header())

    async def List(self, request: v1.ListRequest, context: Context) -> v1.ListResponse:
        wanted = sorted(key for key in self._instances if request.service in ("", key[0]))
        services = [self._services[name] for name in sorted(self._services) if request.service in ("", name)]
        instances = [self._instances[key] for key in wanted]
        return v1.ListResponse(header=self._header(), instances=instances, services=services)

    async def Watch(self, request: v1.WatchRequest, context: Context) -> AsyncIterator[v1.WatchResponse]:
        async for response in self._watched(_Watcher(request.watcher, request.service, acknowledges=False)):
            yield response

    async def Follow(
        self, request_iterator: AsyncIterator[v1.FollowRequest], context: Context
    ) -> AsyncIterator[v1.WatchResponse]:
        first = (await anext(request_iterator)).watch
        watcher = _Watcher(first.watcher, first.service, acknowledges=True)
        reading = asyncio.create_task(self._acknowledgements(watcher, request_iterator))
        try:
            async for response in self._watched(watcher):
                yield response
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def Drain(self, request: v1.DrainRequest, context: Context) -> AsyncIterator[v1.DrainResponse]:
        lease = self._leases.get(request.lease_id)
        key = lease.key if lease is not None else (request.instance.service, request.instance.instance_id)
        if key not in self._instances:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such instance")
        health = v1.HEALTH_SERVING if request.cancel else v1.HEALTH_DRAINING
        await self._commit([self._with_health(key, health, request.reason)])
        revision = self.revision
        seconds = request.timeout_seconds if request.HasField("timeout_seconds") else DRAIN_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.until(lambda: not self._behind(revision))
        left = [v1.Waiting(watcher=one.name, cause=v1.WAITING_CAUSE_PENDING) for one in self._behind(revision)]
        yield v1.DrainResponse(
            header=self._header(),
            instance=v1.InstanceName(service=key[0], instance_id=key[1]),
            drain_revision=revision,
            acknowledged=len(self._watchers) - len(left),
            waiting=left,
            waiting_count=len(left),
            done=True,
        )

    def _behind(self, revision: int) -> list[_Watcher]:
        """Return who has not acknowledged `revision`, of those whom it concerns."""
        return [one for one in self._watchers if one.acknowledges and one.acknowledged < min(revision, one.told)]

    async def _watched(self, watcher: _Watcher) -> AsyncIterator[v1.WatchResponse]:
        snapshot = v1.WatchResponse(header=self._header(), acknowledge=True)
        snapshot.snapshot.instances.extend(i for i in self._instances.values() if watcher.service in ("", i.service))
        snapshot.snapshot.services.extend(s for s in self._services.values() if watcher.service in ("", s.name))
        snapshot.snapshot.SetInParent()
        watcher.told = self.revision
        self._watchers.add(watcher)
        try:
            yield snapshot
            while True:
                try:
                    async with asyncio.timeout(PROGRESS_SECONDS):
                        response = await watcher.queue.get()
                except TimeoutError:
                    response = v1.WatchResponse(header=self._header(), progress=v1.Progress())
                yield response
        finally:
            self._watchers.discard(watcher)
            await self._tell()

    async def _acknowledgements(self, watcher: _Watcher, requests: AsyncIterator[v1.FollowRequest]) -> None:
        async for request in requests:
            watcher.acknowledged = max(watcher.acknowledged, request.acknowledged.revision)
            await self._tell()

    async def _commit(self, changes: Iterable[v1.Change]) -> None:
        """Make the changes one revision, and tell the watchers."""
        self.revision += 1
        # Always acknowledged, so that a test can wait until everybody has put it into force.
        told = v1.WatchResponse(header=self._header(), acknowledge=True)
        told.changes.SetInParent()
        for change in changes:
            match change.WhichOneof("change"):
                case "instance":
                    change.instance.mod_revision = self.revision
                    self._instances[change.instance.service, change.instance.instance_id] = change.instance
                case "removed":
                    self._instances.pop((change.removed.service, change.removed.instance_id), None)
                case "service":
                    change.service.mod_revision = self.revision
                    self._services[change.service.name] = change.service
            told.changes.changes.append(change)
        for watcher in self._watchers:
            if not watcher.service or any(_about(change) == watcher.service for change in told.changes.changes):
                watcher.queue.put_nowait(told)
                watcher.told = self.revision
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _remove(self, leases: list[int], cause: str) -> None:
        if not leases:
            return
        why = v1.RemovalCause.Value(f"REMOVAL_CAUSE_{cause}")
        keys = [self._leases.pop(number).key for number in leases]
        await self._commit(
            v1.Change(removed=v1.Removal(service=service, instance_id=name, cause=why)) for service, name in keys
        )

    async def _set_health(self, lease: _Lease, health: v1.Health.ValueType, reason: str) -> None:
        now = self._instances[lease.key]
        if (health, reason) != (now.health, now.health_reason):
            await self._commit([self._with_health(lease.key, health, reason)])

    def _with_health(self, key: tuple[str, str], health: v1.Health.ValueType, reason: str) -> v1.Change:
        instance = v1.Instance()
        instance.CopyFrom(self._instances[key])
        if health == v1.HEALTH_SERVING and instance.health != health:
            instance.serving_since_ms = self._clock.wall_ns() // 1_000_000
        instance.health, instance.health_reason = health, reason
        return v1.Change(instance=instance)

    def _known(self, instance: v1.Instance) -> list[v1.Change]:
        """Return what changes for the instance's service: it is remembered when its last instance is gone."""
        before = self._services.get(instance.service)
        service = v1.Service(
            name=instance.service,
            grpc_services=instance.grpc_services,
            exposure=instance.exposure,
            create_revision=before.create_revision if before is not None else self.revision + 1,
            mod_revision=before.mod_revision if before is not None else 0,
        )
        return [] if service == before else [v1.Change(service=service)]

    def _header(self) -> v1.Header:
        return v1.Header(cluster_id=CLUSTER, revision=self.revision)


def _about(change: v1.Change) -> str:
    match change.WhichOneof("change"):
        case "instance":
            return change.instance.service
        case "removed":
            return change.removed.service
        case _:
            return change.service.name
