"""The revisioned state in memory, and what a group of requests would make of it. Pure.

`prepare` decides without touching anything, so that the effects can be made durable first; `commit` then applies them.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from services.storage.kv.base import (
    Batch,
    CompactedError,
    Compare,
    Delete,
    Event,
    EventKind,
    Field,
    Grant,
    KeyValue,
    KvError,
    LeaseNotFoundError,
    Operation,
    Put,
    Range,
    RequestError,
)
from services.storage.kv.requests import Compact, Outcome, Request, Revoke, Txn, check_txn


@dataclass
class Prepared:
    """The effects of a group of requests on one `State`."""

    revision: int
    compact_revision: int
    # One for each request, in order.
    outcomes: list[Outcome | KvError] = field(default_factory=list)
    # New history, by ascending revision.
    batches: list[Batch] = field(default_factory=list)
    # Keys as they stand afterwards; None is gone.
    kvs: dict[str, KeyValue | None] = field(default_factory=dict)
    # Leases as they stand afterwards: their ttl; None is ended.
    leases: dict[int, float | None] = field(default_factory=dict)
    # Keys that were bound to a lease on the way (some may have left it again).
    bound: dict[int, set[str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Lease:
    ttl: float
    keys: set[str] = field(default_factory=set)


class State:
    """Keys, leases and the last `keep` revisions of history."""

    def __init__(
        self,
        *,
        keep: int = 10_000,
        revision: int = 0,
        compact_revision: int = 0,
        kvs: Iterable[KeyValue] = (),
        leases: Mapping[int, float] | None = None,
        history: Sequence[Batch] = (),
    ) -> None:
        """Restore a state; `history` must hold every revision after `compact_revision`."""
        self.keep = keep
        self.revision = revision
        self.compact_revision = compact_revision
        self._kvs = {kv.key: kv for kv in kvs}
        self._keys = sorted(self._kvs)
        self._leases = {lease_id: _Lease(ttl) for lease_id, ttl in (leases or {}).items()}
        for kv in self._kvs.values():
            if kv.lease:
                self._leases[kv.lease].keys.add(kv.key)
        if [batch.revision for batch in history] != list(range(compact_revision + 1, revision + 1)):
            raise ValueError("the history has gaps")
        self._history = list(history)

    def get(self, key: str) -> KeyValue | None:
        return self._kvs.get(key)

    def scan(self, prefix: str) -> Iterator[KeyValue]:
        """Yield the keys with that prefix, in order."""
        keys = self._keys
        for index in range(bisect.bisect_left(keys, prefix), len(keys)):
            if not keys[index].startswith(prefix):
                return
            yield self._kvs[keys[index]]

    def lease_ttl(self, lease_id: int) -> float | None:
        lease = self._leases.get(lease_id)
        return None if lease is None else lease.ttl

    def lease_keys(self, lease_id: int) -> frozenset[str]:
        lease = self._leases.get(lease_id)
        return frozenset() if lease is None else frozenset(lease.keys)

    def since(self, revision: int) -> Sequence[Batch]:
        """Return the history from `revision` on, or raise `CompactedError`."""
        if revision <= self.compact_revision:
            raise CompactedError(self.compact_revision)
        return self._history[revision - self.compact_revision - 1 :]

    def prepare(self, requests: Iterable[Request]) -> Prepared:
        """Return what `requests`, one after the other, would do. Nothing is changed."""
        prepared = Prepared(self.revision, self.compact_revision)
        step = _Step(self, prepared)
        for request in requests:
            try:
                outcome: Outcome | KvError = step.run(request)
            except KvError as error:
                step = _Step(self, prepared)
                outcome = error
            prepared.outcomes.append(outcome)
        # Compaction comes with a change, and in strides, so that it costs each change next to nothing.
        if prepared.revision - prepared.compact_revision > self.keep + self.keep // 10:
            prepared.compact_revision = prepared.revision - self.keep
        return prepared

    def commit(self, prepared: Prepared) -> None:
        """Make `prepared`, the last thing that was prepared, the state."""
        for lease_id, ttl in prepared.leases.items():
            if ttl is not None:
                self._leases[lease_id] = _Lease(ttl)
        for key, kv in prepared.kvs.items():
            self._set(key, kv)
        for lease_id, ttl in prepared.leases.items():
            if ttl is None:
                self._leases.pop(lease_id, None)
        self._history += prepared.batches
        self.revision = prepared.revision
        del self._history[: prepared.compact_revision - self.compact_revision]
        self.compact_revision = prepared.compact_revision

    def _set(self, key: str, kv: KeyValue | None) -> None:
        old = self._kvs.get(key)
        if old is not None and old.lease:
            self._leases[old.lease].keys.discard(key)
        if kv is not None:
            if old is None:
                bisect.insort(self._keys, key)
            self._kvs[key] = kv
            if kv.lease:
                self._leases[kv.lease].keys.add(key)
        elif old is not None:
            del self._kvs[key]
            del self._keys[bisect.bisect_left(self._keys, key)]


class _Step:
    """One request on top of the committed state and of the requests before it; joins them only if it succeeds.

    Then it is as new, and takes the next one.
    """

    __slots__ = ("_committed", "_events", "_kvs", "_prepared", "_revision", "_state")

    def __init__(self, state: State, prepared: Prepared) -> None:
        self._state = state
        self._committed = state.get
        self._prepared = prepared
        self._revision = prepared.revision + 1
        self._kvs: dict[str, KeyValue | None] = {}
        self._events: list[Event] = []

    def run(self, request: Request) -> Outcome:
        match request:
            case Txn():
                return self._txn(request)
            case Revoke():
                return self._revoke(request)
            case Compact():
                return self._compact(request)

    def _txn(self, txn: Txn) -> Outcome:
        check_txn(txn)
        succeeded = not txn.compares or all(self._holds(compare) for compare in txn.compares)
        grant = txn.grant if succeeded else None
        if grant is not None and self._ttl(grant.lease_id) is not None:
            raise RequestError(f"lease {grant.lease_id} exists already")
        results = tuple([self._operate(op, grant) for op in (txn.then if succeeded else txn.orelse)])
        if grant is not None:
            self._prepared.leases[grant.lease_id] = grant.ttl
        return Outcome(self._join(), succeeded, results)

    def _revoke(self, request: Revoke) -> Outcome:
        lease_id = request.lease_id
        if self._ttl(lease_id) is None:
            raise LeaseNotFoundError(lease_id)
        kind = EventKind.EXPIRE if request.expired else EventKind.DELETE
        keys = self._state.lease_keys(lease_id) | self._prepared.bound.get(lease_id, set())
        for key in sorted(keys):
            kv = self._get(key)
            if kv is not None and kv.lease == lease_id:
                self._change(kind, key, None, kv)
        self._prepared.leases[lease_id] = None
        return Outcome(self._join())

    def _compact(self, request: Compact) -> Outcome:
        prepared = self._prepared
        if request.revision <= prepared.compact_revision:
            raise CompactedError(prepared.compact_revision)
        if request.revision > prepared.revision:
            raise RequestError(f"revision {request.revision} is still to come: the last one is {prepared.revision}")
        prepared.compact_revision = request.revision
        return Outcome(prepared.revision)

    def _join(self) -> int:
        """Add the step to what is prepared and return the revision it was made at."""
        prepared = self._prepared
        if self._events:
            prepared.revision = self._revision
            prepared.batches.append(Batch(self._revision, tuple(self._events)))
            for key, kv in self._kvs.items():
                prepared.kvs[key] = kv
                if kv is not None and kv.lease:
                    prepared.bound.setdefault(kv.lease, set()).add(key)
            self._revision += 1
            self._kvs.clear()
            self._events.clear()
        return prepared.revision

    def _operate(self, op: Operation, grant: Grant | None) -> tuple[KeyValue, ...]:
        match op:
            case Put(key, value, lease):
                granted = grant is not None and grant.lease_id == lease
                if lease and not granted and self._ttl(lease) is None:
                    raise LeaseNotFoundError(lease)
                prev = self._get(key)
                created = self._revision if prev is None else prev.create_revision
                self._change(EventKind.PUT, key, KeyValue(key, value, created, self._revision, lease), prev)
                return () if prev is None else (prev,)
            case Delete(key, prefix):
                found = self._find(key, prefix=prefix)
                for kv in found:
                    self._change(EventKind.DELETE, kv.key, None, kv)
                return found
            case Range(key, prefix):
                return self._find(key, prefix=prefix)

    def _change(self, kind: EventKind, key: str, kv: KeyValue | None, prev: KeyValue | None) -> None:
        assert key not in self._kvs, "check_txn sees to it that no key changes twice"
        self._events.append(Event(kind, key, kv, prev))
        self._kvs[key] = kv

    def _holds(self, compare: Compare) -> bool:
        kv = self._get(compare.key)
        actual = 0
        if kv is not None:
            actual = kv.create_revision if compare.field is Field.CREATE_REVISION else kv.mod_revision
        return (actual == compare.value) is compare.equal

    def _get(self, key: str) -> KeyValue | None:
        if key in self._kvs:
            return self._kvs[key]
        if key in self._prepared.kvs:
            return self._prepared.kvs[key]
        return self._committed(key)

    def _find(self, key: str, *, prefix: bool) -> tuple[KeyValue, ...]:
        if not prefix:
            kv = self._get(key)
            return () if kv is None else (kv,)
        found: dict[str, KeyValue | None] = {kv.key: kv for kv in self._state.scan(key)}
        for layer in (self._prepared.kvs, self._kvs):
            found |= {name: kv for name, kv in layer.items() if name.startswith(key)}
        return tuple(kv for _, kv in sorted(found.items()) if kv is not None)

    def _ttl(self, lease_id: int) -> float | None:
        if lease_id in self._prepared.leases:
            return self._prepared.leases[lease_id]
        return self._state.lease_ttl(lease_id)
