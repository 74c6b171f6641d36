"""The plainest store there is: one request at a time, in memory, everything spelled out.

It is told the revision at which a change was made, since drivers may leave gaps, and checks that this can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.storage.kv.base import (
    Batch,
    Compare,
    Delete,
    Event,
    EventKind,
    Field,
    KeyValue,
    LeaseNotFoundError,
    Operation,
    Put,
    RequestError,
)
from services.storage.kv.requests import Txn


@dataclass
class Decided:
    """What a request must come to, but for its revision."""

    succeeded: bool = True
    error: type[Exception] | None = None
    # In order: the key, its new value (None is deleted) and its new lease.
    edits: list[tuple[EventKind, str, bytes | None, int]] = field(default_factory=list)
    # One entry a result: the key, and whether it is as it was before (else as this transaction leaves it).
    results: list[list[tuple[str, bool]]] = field(default_factory=list)
    granted: int = 0


@dataclass
class Model:
    # Whether a change adds exactly one to the revision.
    exact: bool
    revision: int
    compacted: int = 0
    kvs: dict[str, KeyValue] = field(default_factory=dict)
    leases: set[int] = field(default_factory=set)
    history: list[Batch] = field(default_factory=list)

    def find(self, key: str, *, prefix: bool) -> list[str]:
        return sorted(name for name in self.kvs if (name.startswith(key) if prefix else name == key))

    def decide(self, txn: Txn) -> Decided:
        for ops in (txn.then, txn.orelse):
            if _twice(ops):
                return Decided(error=RequestError)
        succeeded = all(map(self._holds, txn.compares))
        grant = txn.grant.lease_id if txn.grant is not None and succeeded else 0
        if grant in self.leases:
            return Decided(error=RequestError)
        decided = Decided(succeeded, granted=grant)
        written: dict[str, bool] = {}  # whether it is there afterwards
        for op in txn.then if succeeded else txn.orelse:
            if isinstance(op, Put):
                if op.lease and op.lease not in self.leases | {grant}:
                    return Decided(error=LeaseNotFoundError)
                decided.results.append([(op.key, True)] if op.key in self.kvs else [])
                decided.edits.append((EventKind.PUT, op.key, op.value, op.lease))
                written[op.key] = True
                continue
            there = {name for name in self.kvs if written.get(name, True)} | {
                key for key, is_ in written.items() if is_
            }
            found = sorted(name for name in there if (name.startswith(op.key) if op.prefix else name == op.key))
            decided.results.append([(name, name not in written) for name in found])
            if isinstance(op, Delete):
                decided.edits += [(EventKind.DELETE, name, None, 0) for name in found]
                written |= dict.fromkeys(found, False)
        return decided

    def end_lease(self, lease_id: int, *, expired: bool) -> Decided:
        if lease_id not in self.leases:
            return Decided(error=LeaseNotFoundError)
        kind = EventKind.EXPIRE if expired else EventKind.DELETE
        bound = [key for key, kv in sorted(self.kvs.items()) if kv.lease == lease_id]
        return Decided(edits=[(kind, key, None, 0) for key in bound])

    def apply(self, decided: Decided, revision: int) -> tuple[tuple[KeyValue, ...], ...]:
        """Carry out what was decided at `revision`, and return its results."""
        before = dict(self.kvs)
        if decided.edits:
            assert revision == self.revision + 1 if self.exact else revision > self.revision
        else:
            assert revision == self.revision if self.exact else revision >= self.revision
        events = []
        for kind, key, value, lease in decided.edits:
            prev, kv = self.kvs.pop(key, None), None
            if value is not None:
                kv = self.kvs[key] = KeyValue(key, value, prev.create_revision if prev else revision, revision, lease)
            events.append(Event(kind, key, kv, prev))
        if events:
            self.history.append(Batch(revision, tuple(events)))
        if decided.granted:
            self.leases.add(decided.granted)
        self.revision = revision
        return tuple(tuple((before if old else self.kvs)[key] for key, old in result) for result in decided.results)

    def changes(self, prefix: str, start: int) -> list[Batch]:
        """Return what a watch from `start` on must have brought by now."""
        found = []
        for batch in self.history:
            events = tuple(event for event in batch.events if event.key.startswith(prefix))
            if batch.revision >= start and events:
                found.append(Batch(batch.revision, events))
        return found

    def _holds(self, compare: Compare) -> bool:
        kv = self.kvs.get(compare.key)
        actual = 0
        if kv is not None:
            actual = kv.create_revision if compare.field is Field.CREATE_REVISION else kv.mod_revision
        return (actual == compare.value) is compare.equal


def _twice(ops: Sequence[Operation]) -> bool:
    puts = [op.key for op in ops if isinstance(op, Put)]
    deletes = [op for op in ops if isinstance(op, Delete)]
    again = any(key.startswith(op.key) if op.prefix else key == op.key for op in deletes for key in puts)
    return again or len(puts) != len(set(puts))
