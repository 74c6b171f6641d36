"""Everything that the store says of instances, and what it comes to for each. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mesh.api.registry.v1 import (
    OPINION_SOURCE_CHECK,
    OPINION_SOURCE_DRAIN,
    Instance,
    Opinion,
    OpinionSource,
    Protection,
)
from services.registry import records
from services.registry.opinions import joined
from services.registry.records import Key
from services.storage.kv.base import Event, KeyValue


@dataclass(frozen=True, slots=True)
class Held:
    """An instance as others see it, as it registered, and the lease that keeps it."""

    instance: Instance
    own: Instance
    lease_id: int

    @property
    def live(self) -> bool:
        """Whether its own lease keeps it, rather than the protection of its service."""
        return not self.own.protected


@dataclass(frozen=True, slots=True)
class Protected:
    """A service whose instances are kept."""

    protection: Protection
    lease_id: int
    mod_revision: int


_SOURCES = {prefix: source for source, prefix in records.OPINIONS.items()}


class Roster:
    """The records of all instances by service and id."""

    def __init__(self) -> None:
        self._own: dict[Key, tuple[Instance, int]] = {}
        self._kept: dict[Key, tuple[Instance, int]] = {}
        # Of the few instances that others speak of: who says what, and since which revision.
        self._opinions: dict[Key, dict[OpinionSource.ValueType, tuple[Opinion, int, int]]] = {}
        self.protected: dict[str, Protected] = {}
        # By key: the leases that held it before, and where the present registration began.
        self._replaced: dict[Key, tuple[int, ...]] = {}
        self._began: dict[Key, int] = {}
        self.replaced_leases: set[int] = set()

    def apply(self, event: Event, revision: int) -> Key | None:
        """Take over one change; return the instance that it touches."""
        name, kv = event.key, event.kv
        if name.startswith(records.INSTANCES):
            return self._set_own(records.parse_key(name, records.INSTANCES), kv, revision)
        if name.startswith(records.REPLACED):
            self._set_replaced(records.parse_key(name, records.REPLACED), kv)
        elif name.startswith(records.KEPT):
            return self._set_kept(records.parse_key(name, records.KEPT), kv)
        elif name.startswith(records.PROTECTION):
            self._set_protection(name.removeprefix(records.PROTECTION), kv)
        else:
            for prefix, source in _SOURCES.items():
                if name.startswith(prefix):
                    return self._set_opinion(source, records.parse_key(name, prefix), kv)
        return None

    def held(self, key: Key) -> Held | None:
        """Return what is known of an instance; None when there is none."""
        own, lease_id = self._own.get(key) or self._kept.get(key) or (None, 0)
        if own is None:
            return None
        said = self._opinions.get(key, {}).values()
        latest = max((revision for _, revision, _ in said), default=0)
        return Held(joined(own, [opinion for opinion, _, _ in said], latest), own, lease_id)

    def opinion(self, source: OpinionSource.ValueType, key: Key) -> tuple[Opinion, int, int] | None:
        """Return an opinion, the revision since which it stands, and its lease."""
        return self._opinions.get(key, {}).get(source)

    def opinions(self, source: OpinionSource.ValueType) -> Iterator[tuple[Key, Opinion, int]]:
        """Yield the opinions of one source, each with its lease."""
        for key, said in self._opinions.items():
            if source in said:
                opinion, _, lease_id = said[source]
                yield key, opinion, lease_id

    def left_behind(self, key: Key) -> Iterator[str]:
        """Yield the keys of what ends when another registration takes the place of an instance."""
        for source in (OPINION_SOURCE_CHECK, OPINION_SOURCE_DRAIN):
            if source in self._opinions.get(key, ()):
                yield records.opinion_key(source, key)
        if key in self._kept:
            yield records.kept_key(key)

    def kept_count(self, service: str) -> int:
        """Return how many instances of a service only its protection keeps."""
        return sum(key not in self._own for key in self._kept if key[0] == service) if self._kept else 0

    def replaced(self, key: Key) -> tuple[int, ...]:
        return self._replaced.get(key, ())

    def _set_own(self, key: Key, kv: KeyValue | None, revision: int) -> Key:
        if kv is None:
            self._own.pop(key, None)
        else:
            began = self._began.get(key, 0)
            self._own[key] = records.decode_instance(kv, began if began <= revision else 0), kv.lease
        return key

    def _set_kept(self, key: Key, kv: KeyValue | None) -> Key:
        if kv is None:
            self._kept.pop(key, None)
        else:
            self._kept[key] = records.decode_kept(kv), kv.lease
        return key

    def _set_opinion(self, source: OpinionSource.ValueType, key: Key, kv: KeyValue | None) -> Key:
        if kv is not None:
            said = Opinion.FromString(kv.value)
            self._opinions.setdefault(key, {})[source] = said, kv.mod_revision, kv.lease
        elif key in self._opinions:
            self._opinions[key].pop(source, None)
            if not self._opinions[key]:
                del self._opinions[key]
        return key

    def _set_protection(self, name: str, kv: KeyValue | None) -> None:
        if kv is None:
            self.protected.pop(name, None)
        else:
            self.protected[name] = Protected(Protection.FromString(kv.value), kv.lease, kv.mod_revision)

    def _set_replaced(self, key: Key, kv: KeyValue | None) -> None:
        self.replaced_leases.difference_update(self._replaced.pop(key, ()))
        self._began.pop(key, None)
        if kv is not None:
            self._replaced[key] = records.decode_leases(kv.value)
            self.replaced_leases.update(self._replaced[key])
            self._began[key] = kv.mod_revision
