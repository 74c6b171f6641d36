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
from services.registry.roster import Held, Roster
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
class Move:
    """How an instance was and is; None is not there."""

    key: Key
    before: Held | None
    after: Held | None
    # What happened to it, where it is gone.
    kind: EventKind


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
        self.roster = Roster()
        self._order: list[Key] = []
        self._declared: dict[str, _Declared] = {}
        self._leases: dict[int, Key] = {}
        # Changes after `_floor`, by ascending revision; not every revision changes the registry.
        self._kept: list[Revision] = []
        self._floor = revision
        # Keys sort so that what is replaced would come after its instance; it is needed before.
        for kv in sorted(kvs, key=lambda kv: not kv.key.startswith(records.REPLACED)):
            self._apply(Event(EventKind.PUT, kv.key, kv, None), revision)

    @classmethod
    def load(
        cls, kvs: Iterable[KeyValue], revision: int, batches: Sequence[Batch], floor: int, *, keep: int = KEEP_CHANGES
    ) -> View:
        """Return the view at `revision`, where the store holds `kvs`, and `batches` are all its changes since `floor`.

        It goes through them once more from where they began, so that it tells them as it did when they came.
        """
        state = {kv.key: kv for kv in kvs}
        for batch in reversed(batches):
            for event in reversed(batch.events):
                if event.prev is None:
                    state.pop(event.key, None)
                else:
                    state[event.key] = event.prev
        view = cls(state.values(), floor, keep=keep)
        for batch in batches:
            view.apply(batch)
        view.revision = revision
        return view

    def apply(self, batch: Batch) -> list[Move]:
        """Take over the changes of the next revision; return what they did to instances."""
        touched: dict[Key, EventKind] = {}
        changed: dict[str, None] = {}
        for event in batch.events:
            key = self.roster.apply(event, batch.revision)
            if key is not None:
                touched[key] = event.kind if event.key.startswith(records.INSTANCES) else touched.get(key, event.kind)
            elif event.key.startswith((records.SERVICES, records.PROTECTION)):
                name = event.key.removeprefix(records.SERVICES).removeprefix(records.PROTECTION)
                self._apply_service(name, event)
                changed[name] = None
        moves = [self._settle(key, kind) for key, kind in touched.items()]
        self._keep_changes(batch.revision, moves, changed)
        self.revision = batch.revision
        return moves

    def lease_key(self, lease_id: int) -> Key | None:
        """Return the instance that the lease keeps."""
        return self._leases.get(lease_id)

    def is_replaced(self, lease_id: int) -> bool:
        return lease_id in self.roster.replaced_leases

    def declared(self, name: str, coming: Instance | None = None) -> Service | None:
        """Return what `name` would be remembered as, were `coming` registered now; None while nothing lives."""
        tally = self._declared.get(name) or _Declared()
        going = None if coming is None else self.instances.get((name, coming.instance_id))
        live, public, names = tally.live, tally.public, set(tally.grpc_services)
        if going is not None:
            live -= 1
            public -= going.own.exposure == EXPOSURE_PUBLIC
            names -= {name for name in going.own.grpc_services if tally.grpc_services[name] == 1}
        if coming is not None:
            live += 1
            public += coming.exposure == EXPOSURE_PUBLIC
            names |= set(coming.grpc_services)
        if not live:
            return None
        exposure = EXPOSURE_PUBLIC if public else EXPOSURE_INTERNAL
        return Service(name=name, grpc_services=sorted(names), exposure=exposure)

    def count(self, service: str) -> int:
        """Return how many instances a service has, those included that only its protection keeps."""
        declared = self._declared.get(service)
        return 0 if declared is None else declared.live

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

    def since(self, revision: int, limit: int = KEEP_CHANGES) -> Sequence[Revision] | None:
        """Return the next `limit` changes after `revision`; None when they are not all kept (or still to come)."""
        if not self._floor <= revision <= self.revision:
            return None
        if revision == self.revision:
            return ()
        begin = bisect.bisect_right(self._kept, revision, key=lambda kept: kept.revision)
        return self._kept[begin : begin + limit]

    def _apply(self, event: Event, revision: int) -> None:
        """Take over one key of a state."""
        key = self.roster.apply(event, revision)
        if key is not None:
            self._settle(key, event.kind)
        elif event.key.startswith(records.SERVICES):
            self._apply_service(event.key.removeprefix(records.SERVICES), event)
        elif event.key.startswith(records.PROTECTION):
            self._apply_service(event.key.removeprefix(records.PROTECTION), event)

    def _apply_service(self, name: str, event: Event) -> None:
        if event.key.startswith(records.SERVICES):
            if event.kv is None:
                self.services.pop(name, None)
            else:
                self.services[name] = records.decode_service(event.kv)
        service = self.services.get(name)
        if service is None:
            return
        known, protected = Service(), self.roster.protected.get(name)
        known.CopyFrom(service)  # others may hold the old one
        known.ClearField("protection")
        if protected is not None:
            known.protection.CopyFrom(protected.protection)
        self.services[name] = known

    def _settle(self, key: Key, kind: EventKind) -> Move:
        """Bring an instance up to what the roster says of it now."""
        old, new = self.instances.pop(key, None), self.roster.held(key)
        declared = self._declared.setdefault(key[0], _Declared())
        if old is not None:
            declared.add(old.own, -1)
            self._leases.pop(old.lease_id, None)
        if new is not None:
            declared.add(new.own, 1)
            self.instances[key] = new
            if new.live:
                self._leases[new.lease_id] = key
            if old is None:
                bisect.insort(self._order, key)
        elif old is not None:
            del self._order[bisect.bisect_left(self._order, key)]
        if not declared.live:
            del self._declared[key[0]]
        if new is None and old is not None and not old.live:
            kind = EventKind.EXPIRE  # that its protection ended is not why it left
        return Move(key, old, new, kind)

    def _keep_changes(self, revision: int, moves: Iterable[Move], services: Iterable[str]) -> None:
        changes = [change for move in moves if (change := _change(move)) is not None]
        changes += [Change(service=self.services[name]) for name in services if name in self.services]
        if not changes:
            return
        names = frozenset(map(_service_of, changes))
        self._kept.append(Revision(revision, Changes(changes=changes), names))
        if len(self._kept) > self._keep + self._keep // 10:
            drop = len(self._kept) - self._keep
            self._floor = self._kept[drop - 1].revision
            del self._kept[:drop]


def _change(move: Move) -> Change | None:
    if move.after is not None:
        return Change(instance=move.after.instance)
    if move.before is None:
        return None  # something was said of an instance that is gone
    cause = REMOVAL_CAUSE_EXPIRED if move.kind is EventKind.EXPIRE else REMOVAL_CAUSE_DEREGISTERED
    return Change(removed=Removal(service=move.key[0], instance_id=move.key[1], cause=cause))


def _service_of(change: Change) -> str:
    if change.HasField("instance"):
        return change.instance.service
    return change.removed.service if change.HasField("removed") else change.service.name
