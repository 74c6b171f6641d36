"""The state against the plainest model: a copy of everything at every revision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.storage.kv.base import (
    Batch,
    CompactedError,
    Delete,
    EventKind,
    Grant,
    KeyValue,
    KvError,
    LeaseNotFoundError,
    Operation,
    Put,
    Range,
    RequestError,
    absent,
    exists,
    unchanged,
)
from services.storage.kv.requests import Compact, Outcome, Request, Revoke, Txn
from services.storage.kv.state import State

KEYS = st.sampled_from(["a", "a/1", "a/2", "b", "b/1"])
PREFIXES = st.sampled_from(["", "a", "a/", "b", "zz"])
LEASES = st.integers(0, 3)
VALUES = st.binary(max_size=3)

COMPARES = st.one_of(
    st.builds(exists, KEYS),
    st.builds(absent, KEYS),
    st.builds(unchanged, KEYS, st.integers(0, 20)),
)
OPERATIONS = st.one_of(
    st.builds(Put, KEYS, VALUES, LEASES),
    st.builds(Delete, KEYS),
    st.builds(Delete, PREFIXES, prefix=st.just(value=True)),
    st.builds(Range, PREFIXES, prefix=st.just(value=True)),
    st.builds(Range, KEYS),
)
GRANTS = st.none() | st.builds(Grant, st.integers(1, 3), st.just(10.0))
TXNS = st.builds(
    Txn,
    st.lists(COMPARES, max_size=2).map(tuple),
    st.lists(OPERATIONS, max_size=3).map(tuple),
    st.lists(OPERATIONS, max_size=2).map(tuple),
    GRANTS,
)
REQUESTS: st.SearchStrategy[Request] = st.one_of(
    TXNS, TXNS, TXNS, st.builds(Revoke, st.integers(1, 3), st.booleans()), st.builds(Compact, st.integers(0, 30))
)


def changes_twice(ops: tuple[Operation, ...]) -> bool:
    """Judged by the request alone: a deletion counts whether or not it finds anything."""
    puts = [op.key for op in ops if isinstance(op, Put)]
    deletes = [op for op in ops if isinstance(op, Delete)]
    hit = any(key.startswith(op.key) if op.prefix else key == op.key for op in deletes for key in puts)
    return hit or len(puts) > len(set(puts))


@dataclass
class Model:
    """One request at a time, everything copied."""

    revision: int = 0
    compacted: int = 0
    kvs: dict[str, KeyValue] = field(default_factory=dict)
    leases: set[int] = field(default_factory=set)
    # What each revision did: key → (kind, before, after).
    history: dict[int, list[tuple[EventKind, str, KeyValue | None, KeyValue | None]]] = field(default_factory=dict)

    def run(self, request: Request) -> Any:
        if isinstance(request, Compact):
            if request.revision <= self.compacted:
                return CompactedError
            if request.revision > self.revision:
                return RequestError
            self.compacted = request.revision
            return self.revision, True, ()
        if isinstance(request, Revoke):
            if request.lease_id not in self.leases:
                return LeaseNotFoundError
            kind = EventKind.EXPIRE if request.expired else EventKind.DELETE
            changes: list[Any] = [
                (kind, key, kv, None) for key, kv in sorted(self.kvs.items()) if kv.lease == request.lease_id
            ]
            self.leases.discard(request.lease_id)
            return self._apply(changes), True, ()
        return self._txn(request)

    def _txn(self, txn: Txn) -> Any:  # noqa: C901 - the whole of it in one piece is the point of a model
        def holds(compare: Any) -> bool:
            kv = self.kvs.get(compare.key)
            actual = getattr(kv, compare.field.name.lower()) if kv else 0
            return (actual == compare.value) is compare.equal

        if any(map(changes_twice, (txn.then, txn.orelse))):
            return RequestError
        succeeded = all(map(holds, txn.compares))
        grant = txn.grant.lease_id if txn.grant and succeeded else None
        if grant in self.leases:
            return RequestError
        kvs = dict(self.kvs)
        changes: list[Any] = []
        results: list[tuple[KeyValue, ...]] = []
        for op in txn.then if succeeded else txn.orelse:
            found = [kv for key, kv in sorted(kvs.items()) if key == op.key]
            if isinstance(op, Put):
                if op.lease and op.lease not in self.leases | {grant}:
                    return LeaseNotFoundError
                created = found[0].create_revision if found else self.revision + 1
                new = KeyValue(op.key, op.value, created, self.revision + 1, op.lease)
                edits: list[Any] = [(EventKind.PUT, op.key, found[0] if found else None, new)]
            else:
                if op.prefix:
                    found = [kv for key, kv in sorted(kvs.items()) if key.startswith(op.key)]
                edits = [(EventKind.DELETE, kv.key, kv, None) for kv in found] if isinstance(op, Delete) else []
            for edit in edits:
                kvs.pop(edit[1], None)
                if edit[3] is not None:
                    kvs[edit[1]] = edit[3]
            changes += edits
            results.append(tuple(found))
        if grant is not None:
            self.leases.add(grant)
        return self._apply(changes), succeeded, tuple(results)

    def _apply(self, changes: list[Any]) -> int:
        if changes:
            self.revision += 1
            self.history[self.revision] = changes
            for _, key, _, after in changes:
                self.kvs.pop(key, None)
                if after is not None:
                    self.kvs[key] = after
        return self.revision


def flat(batch: Batch) -> list[Any]:
    return [(event.kind, event.key, event.prev, event.kv) for event in batch.events]


class StateMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = State(keep=1000)
        self.model = Model()

    @rule(requests=st.lists(REQUESTS, min_size=1, max_size=4))
    def a_group_does_what_its_requests_do_one_by_one(self, requests: list[Request]) -> None:
        before = dict(self.model.kvs), self.model.revision
        prepared = self.state.prepare(requests)
        assert ({kv.key: kv for kv in self.state.scan("")}, self.state.revision) == before  # nothing is changed yet
        for request, outcome in zip(requests, prepared.outcomes, strict=True):
            expected = self.model.run(request)
            if isinstance(outcome, KvError):
                assert type(outcome) is expected
            else:
                assert isinstance(outcome, Outcome)
                assert (outcome.revision, outcome.succeeded, outcome.results) == expected
        self.state.commit(prepared)

    @rule(requests=st.lists(REQUESTS, min_size=1, max_size=3))
    def a_group_that_is_not_committed_leaves_no_trace(self, requests: list[Request]) -> None:
        self.state.prepare(requests)

    @rule()
    def it_can_be_restored(self) -> None:
        old = self.state
        history = list(old.since(old.compact_revision + 1))
        leases = dict.fromkeys(self.model.leases, 10.0)
        self.state = State(
            keep=1000,
            revision=old.revision,
            compact_revision=old.compact_revision,
            kvs=list(old.scan("")),
            leases=leases,
            history=history,
        )

    @rule(prefix=PREFIXES)
    def a_scan_is_ordered_and_complete(self, prefix: str) -> None:
        expected = [kv for key, kv in sorted(self.model.kvs.items()) if key.startswith(prefix)]
        assert list(self.state.scan(prefix)) == expected

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        state, model = self.state, self.model
        assert {kv.key: kv for kv in state.scan("")} == model.kvs
        assert (state.revision, state.compact_revision) == (model.revision, model.compacted)
        assert {lease for lease in range(5) if state.lease_ttl(lease) is not None} == model.leases
        for lease in model.leases:
            assert state.lease_keys(lease) == {key for key, kv in model.kvs.items() if kv.lease == lease}
        kept = {batch.revision: flat(batch) for batch in state.since(model.compacted + 1)}
        assert kept == {revision: what for revision, what in model.history.items() if revision > model.compacted}


TestState = StateMachine.TestCase
TestState.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
