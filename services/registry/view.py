"""The registry in memory: its present state, and the changes that led to it as watchers want them. Pure.

It is fed with the store's changes, a revision at a time, and never runs ahead of what is durable.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mesh.api.registry.v1 import (
    EXPOSURE_INTERNAL,
    EXPOSURE_PUBLIC,
    REMOVAL_CAUSE_DEREGISTERED,
    REMOVAL_CAUSE_EXPIRED,
    Change,
    Changes,
    Instance,
    Removal,
    Service,
    Snapshot,
)
from services.registry import records
from services.registry.records import Key
from services.storage.kv.base import Batch, Event, EventKind, KeyValue

# As many as the store keeps, so that a watcher can resume from whatever the store still knows.
KEEP_CHANGES = 10_000


@dataclass(frozen=True, slots=True)
class Revision:
    """All changes of one revision, ready to be sent."""

    revision: int
    changes: Changes
    services: frozenset[str]

    def of(self, service: str) -> Changes | None:
        """Return the changes of `service`, of all when it is empty; None when there are none."""
        if not service or self.services == {service}:
            return self.changes
        if service not in self.services:
            return None
        return Changes(changes=[change for change in self.changes.changes if _service_of(change) == service])


@dataclass(frozen=True, slots=True)
class Held:
    """An instance and the lease that keeps it."""

    instance: Instance
    lease_id: int


@dataclass(slots=True)
class _Declared:
    """What the live instances of a service declare, counted so that each may leave."""

    grpc_services: Counter[str] = field(default_factory=Counter)
    live: int = 0
    public: int = 0

    def add(self, instance: Instance, sign: int) -> None:
        self.live += sign
        self.public += sign * (instance.exposure == EXPOSURE_PUBLIC)
        for name in instance.grpc_services:
            self.grpc_services[name] += sign
            if not self.grpc_services[name]:
                del self.grpc_services[name]


class View:
    """Instances, services, leases and the kept changes, all at `revision`."""

    def __init__(self, kvs: Iterable[KeyValue] = (), revision: int = 0, *, keep: int = KEEP_CHANGES) -> None:
        """Become the state that `kvs` hold at `revision`, with no changes kept."""
        self._keep = keep
        self.revision = revision
        self.instances: dict[Key, Held] = {}
        self.services: dict[str, Service] = {}
        self._order: list[Key] = []
        self._declared: dict[str, _Declared] = {}
        self._leases: dict[int, Key] = {}
        # By key: the leases that held it before, and where the present registration began.
        self._replaced: dict[Key, tuple[int, ...]] = {}
        self._began: dict[Key, int] = {}
        self._replaced_leases: set[int] = set()
        # Changes after `_floor`, by ascending revision; not every revision changes the registry.
        self._kept: list[Revision] = []
        self._floor = revision
        # Keys sort so that what is replaced would come after its instance; it is needed before.
        for kv in sorted(kvs, key=lambda kv: not kv.key.startswith(records.REPLACED)):
            self._apply(Event(EventKind.PUT, kv.key, kv, None), revision)

    def backfill(self, batches: Iterable[Batch], floor: int) -> None:
        """Add the changes that led here, from `floor` on, to a view just loaded."""
        self._floor = floor
        for batch in batches:
            self._keep_changes(batch)

    def apply(self, batch: Batch) -> set[str]:
        """Take over the changes of the next revision; return the services whose instances they touched."""
        touched = set()
        for event in batch.events:
            self._apply(event, batch.revision)
            if event.key.startswith(records.INSTANCES):
                touched.add(records.parse_key(event.key, records.INSTANCES)[0])
        self._keep_changes(batch)
        self.revision = batch.revision
        return touched

    def lease_key(self, lease_id: int) -> Key | None:
        """Return the instance that the lease keeps."""
        return self._leases.get(lease_id)

    def is_replaced(self, lease_id: int) -> bool:
        return lease_id in self._replaced_leases

    def replaced(self, key: Key) -> tuple[int, ...]:
        return self._replaced.get(key, ())

    def declared(self, name: str, coming: Instance | None = None) -> Service | None:
        """Return what `name` would be remembered as, were `coming` registered now; None while nothing lives."""
        tally = self._declared.get(name) or _Declared()
        going = None if coming is None else self.instances.get((name, coming.instance_id))
        live, public, names = tally.live, tally.public, set(tally.grpc_services)
        if going is not None:
            live -= 1
            public -= going.instance.exposure == EXPOSURE_PUBLIC
            names -= {name for name in going.instance.grpc_services if tally.grpc_services[name] == 1}
        if coming is not None:
            live += 1
            public += coming.exposure == EXPOSURE_PUBLIC
            names |= set(coming.grpc_services)
        if not live:
            return None
        exposure = EXPOSURE_PUBLIC if public else EXPOSURE_INTERNAL
        return Service(name=name, grpc_services=sorted(names), exposure=exposure)

    def page(self, service: str, after: Key | None) -> Iterator[Instance]:
        """Yield instances in order, those of `service` if it is given, from behind `after` on."""
        begin = after or (service, "")
        for key in self._order[bisect.bisect_right(self._order, begin) :]:
            if service and key[0] != service:
                return
            yield self.instances[key].instance

    def known(self, service: str) -> list[Service]:
        """Return the known services in order, or the one that is asked for."""
        return [found for name, found in sorted(self.services.items()) if not service or name == service]

    def snapshot(self, service: str, *, compacted: bool) -> Snapshot:
        return Snapshot(instances=self.page(service, None), services=self.known(service), compacted=compacted)

    def since(self, revision: int) -> Sequence[Revision] | None:
        """Return the changes after `revision`; None when they are not all kept (or still to come)."""
        if not self._floor <= revision <= self.revision:
            return None
        return self._kept[bisect.bisect_right(self._kept, revision, key=lambda kept: kept.revision) :]

    def _apply(self, event: Event, revision: int) -> None:
        if event.key.startswith(records.INSTANCES):
            self._apply_instance(records.parse_key(event.key, records.INSTANCES), event.kv, revision)
        elif event.key.startswith(records.REPLACED):
            self._apply_replaced(records.parse_key(event.key, records.REPLACED), event.kv)
        elif event.key.startswith(records.SERVICES):
            name = event.key.removeprefix(records.SERVICES)
            if event.kv is None:
                self.services.pop(name, None)
            else:
                self.services[name] = records.decode_service(event.kv)

    def _apply_instance(self, key: Key, kv: KeyValue | None, revision: int) -> None:
        declared = self._declared.setdefault(key[0], _Declared())
        old = self.instances.pop(key, None)
        if old is not None:
            declared.add(old.instance, -1)
            self._leases.pop(old.lease_id, None)
        if kv is not None:
            held = Held(records.decode_instance(kv, self._began_by(key, revision)), kv.lease)
            declared.add(held.instance, 1)
            self._leases[kv.lease] = key
            self.instances[key] = held
            if old is None:
                bisect.insort(self._order, key)
        elif old is not None:
            del self._order[bisect.bisect_left(self._order, key)]
        if not declared.live:
            del self._declared[key[0]]

    def _apply_replaced(self, key: Key, kv: KeyValue | None) -> None:
        self._replaced_leases.difference_update(self._replaced.pop(key, ()))
        self._began.pop(key, None)
        if kv is not None:
            self._replaced[key] = records.decode_leases(kv.value)
            self._replaced_leases.update(self._replaced[key])
            self._began[key] = kv.mod_revision

    def _began_by(self, key: Key, revision: int) -> int:
        began = self._began.get(key, 0)
        return began if began <= revision else 0

    def _keep_changes(self, batch: Batch) -> None:
        changes = [change for event in batch.events if (change := self._change(event, batch.revision)) is not None]
        if not changes:
            return
        services = frozenset(map(_service_of, changes))
        self._kept.append(Revision(batch.revision, Changes(changes=changes), services))
        if len(self._kept) > self._keep + self._keep // 10:
            drop = len(self._kept) - self._keep
            self._floor = self._kept[drop - 1].revision
            del self._kept[:drop]

    def _change(self, event: Event, revision: int) -> Change | None:
        if event.key.startswith(records.INSTANCES):
            key = records.parse_key(event.key, records.INSTANCES)
            if event.kv is not None:
                return Change(instance=records.decode_instance(event.kv, self._began_by(key, revision)))
            cause = REMOVAL_CAUSE_EXPIRED if event.kind is EventKind.EXPIRE else REMOVAL_CAUSE_DEREGISTERED
            return Change(removed=Removal(service=key[0], instance_id=key[1], cause=cause))
        if event.key.startswith(records.SERVICES) and event.kv is not None:
            return Change(service=records.decode_service(event.kv))
        return None


def _service_of(change: Change) -> str:
    if change.HasField("instance"):
        return change.instance.service
    return change.removed.service if change.HasField("removed") else change.service.name
