"""Any interleaving of puts, transactions, lapsing leases, watches, crashes and compactions, against the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.storage.kv.base import (
    CompactedError,
    Compare,
    Delete,
    Field,
    Grant,
    KvError,
    LeaseNotFoundError,
    Operation,
    Put,
    Range,
    RequestError,
)
from services.storage.kv.requests import Txn
from tests.conformance_kv.bench import LONG, SHORT, Bench, Watcher, new_lease
from tests.conformance_kv.conftest import DRIVERS
from tests.conformance_kv.model import Decided, Model

T = TypeVar("T")

# Nothing takes this long unless it hangs, and then it is to be said where.
PATIENCE = 30.0

KEYS = st.sampled_from(["a", "a/1", "a/2", "b", "b/ä"])
PREFIXES = st.sampled_from(["", "a", "a/", "b", "zz"])
VALUES = st.binary(max_size=3)
# Of the leases of one run; 0 is none.
LEASES = st.integers(0, 3)
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Put, KEYS, VALUES, LEASES),
    st.builds(Put, KEYS, VALUES),
    st.builds(Delete, KEYS),
    st.builds(Delete, PREFIXES, prefix=st.just(value=True)),
    st.builds(Range, PREFIXES, prefix=st.just(value=True)),
    st.builds(Range, KEYS),
)
# A key, the field, how far from the truth, and whether to be equal.
COMPARES = st.tuples(KEYS, st.sampled_from(Field), st.sampled_from([0, 0, 0, -1, 1]), st.booleans())


class StoreMachine(RuleBasedStateMachine):
    """One run on one driver. Leases are numbered from 1 and have ids of their own in each run."""

    make: ClassVar[Callable[[], Bench]]
    # One for all runs: grpc.aio does not survive the end of a loop that it is used on.
    runner: ClassVar[asyncio.Runner]
    # How often a run may crash, and wait for a lease to lapse: on etcd these take seconds.
    crashes: ClassVar[int]
    lapses: ClassVar[int]

    @initialize()
    def begin(self) -> None:
        self.bench = type(self).make()
        self.run(self.bench.open())
        # etcd is shared with the runs before.
        self.model = Model(self.bench.exact, self.run(self.bench.store.range("")).header.revision)
        self.first = self.model.revision
        self.ids = {0: 0} | {number: new_lease() for number in (1, 2, 3)}
        self.watchers: list[tuple[str, int, Watcher]] = []
        self.crashed = self.lapsed = 0

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        async def in_time() -> T:
            async with asyncio.timeout(PATIENCE):
                return await what

        return self.runner.run(in_time())

    @rule(
        compares=st.lists(COMPARES, max_size=2),
        then=st.lists(OPERATIONS, max_size=3),
        orelse=st.lists(OPERATIONS, max_size=2),
        grant=st.sampled_from([0, 0, 1, 2, 3]),
    )
    def transaction(
        self, compares: list[tuple[str, Field, int, bool]], then: list[Operation], orelse: list[Operation], grant: int
    ) -> None:
        txn = Txn(
            tuple(self._compare(*compare) for compare in compares),
            tuple(map(self._own, then)),
            tuple(map(self._own, orelse)),
            Grant(self.ids[grant], LONG) if grant else None,
        )
        decided = self.model.decide(txn)
        try:
            reply = self.run(self.bench.store.txn(txn.compares, txn.then, txn.orelse, grant=txn.grant))
        except KvError as error:
            outcome: type[Exception] | None = type(error)
        else:
            outcome = None
        assert outcome is decided.error
        if outcome is not None:
            return
        assert reply.succeeded == decided.succeeded
        assert reply.results == self.model.apply(decided, reply.header.revision)

    @rule(number=st.integers(1, 3))
    def revocation(self, number: int) -> None:
        lease_id = self.ids[number]
        decided = self.model.end_lease(lease_id, expired=False)
        if decided.error is not None:
            with pytest.raises(decided.error):
                self.run(self.bench.store.revoke(lease_id))
            return
        self.model.apply(decided, self.run(self.bench.store.revoke(lease_id)).revision)
        self.model.leases.discard(lease_id)

    @precondition(lambda self: self.lapsed < self.lapses)
    @rule(keys=st.sets(KEYS, max_size=3), others=st.sets(KEYS, max_size=1))
    def lapse(self, keys: set[str], others: set[str]) -> None:
        """A lease is granted, changes come between, and it runs out."""
        self.lapsed += 1
        lease_id = new_lease()
        for txn in (
            Txn((), tuple(Put(key, b"", lease_id) for key in sorted(keys)), (), Grant(lease_id, SHORT)),
            Txn((), tuple(Put(key, b"moved") for key in sorted(others))),
        ):
            reply = self.run(self.bench.store.txn(txn.compares, txn.then, grant=txn.grant))
            self.model.apply(self.model.decide(txn), reply.header.revision)
        self.run(self.bench.run_out(lease_id))
        after = self.run(self.bench.store.range("")).header.revision
        self.model.apply(self.model.end_lease(lease_id, expired=True), after)
        self.model.leases.discard(lease_id)

    @precondition(lambda self: self.crashed < self.crashes)
    @rule()
    def crash(self) -> None:
        self.crashed += 1
        self.run(self.bench.crash())
        self._catch_up()

    @rule(back=st.integers(-1, 5))
    def compaction(self, back: int) -> None:
        """Everyone who watches has got everything: how a late one fares is said by another rule."""
        revision = max(self.first, self.model.revision - back)
        self._catch_up()
        try:
            self.run(self.bench.store.compact(revision))
        except CompactedError as error:
            told: int | None = error.compact_revision
        except RequestError:
            told = -1
        else:
            told = None
        if told is not None:
            # Before its first own one, a run on etcd finds the compactions of others.
            late = revision <= self.model.compacted == told or not self.model.exact
            assert late if told >= 0 else revision > self.model.revision
            return
        assert self.model.compacted < revision
        assert revision <= self.model.revision or not self.model.exact
        self.model.compacted = revision

    @rule(prefix=PREFIXES, back=st.integers(-2, 8))
    def watch(self, prefix: str, back: int) -> None:
        start = max(self.first + 1, self.model.revision - back)
        watcher = self.run(self._watcher(prefix, start))
        self.run(watcher.reach(self.model.revision))
        if start <= self.model.compacted:
            assert watcher.compacted == self.model.compacted
        else:
            assert watcher.compacted is None
            self.watchers.append((prefix, start, watcher))

    @rule()
    def renewal(self) -> None:
        for lease_id in self.ids.values():
            if lease_id in self.model.leases:
                assert self.run(self.bench.store.keepalive(lease_id)).ttl == LONG
                assert self.run(self.bench.store.time_to_live(lease_id)).ttl == LONG
            elif lease_id:
                with pytest.raises(LeaseNotFoundError):
                    self.run(self.bench.store.keepalive(lease_id))

    @invariant()
    def what_is_there_is_what_the_model_has(self) -> None:
        if not hasattr(self, "model"):
            return
        reply = self.run(self.bench.store.range("", prefix=True))
        assert reply.kvs == tuple(kv for _, kv in sorted(self.model.kvs.items()))
        if self.model.exact:
            assert reply.header.revision == self.model.revision
        # The driver may have written something of its own, of which watchers hear as well.
        self.model.apply(Decided(), reply.header.revision)

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        try:
            self._catch_up()
        finally:
            for _, _, watcher in self.watchers:
                self.run(watcher.stop())
            self.run(self.bench.close())

    def _catch_up(self) -> None:
        for prefix, start, watcher in self.watchers:
            self.run(watcher.reach(self.model.revision))
            assert watcher.compacted is None
            assert watcher.batches == self.model.changes(prefix, start)

    def _own(self, op: Operation) -> Operation:
        return Put(op.key, op.value, self.ids[op.lease]) if isinstance(op, Put) else op

    def _compare(self, key: str, what: Field, off: int, equal: bool) -> Compare:  # noqa: FBT001 - as drawn
        kv = self.model.kvs.get(key)
        actual = 0
        if kv is not None:
            actual = kv.create_revision if what is Field.CREATE_REVISION else kv.mod_revision
        return Compare(key, what, max(0, actual + off), equal)

    async def _watcher(self, prefix: str, start: int) -> Watcher:
        return Watcher(self.bench, prefix, start)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_driver_does_what_the_model_does(driver: str, make_bench: Callable[[str], Bench]) -> None:
    on_etcd = driver == "etcd"

    with asyncio.Runner() as shared:

        class Machine(StoreMachine):
            make = staticmethod(lambda: make_bench(driver))
            runner = shared
            crashes = 1 if on_etcd else 5
            lapses = 1 if on_etcd else 5

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=10 if on_etcd else 25,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                # A smaller example is worth minutes only where each try takes milliseconds.
                phases=[phase for phase in Phase if phase is not Phase.shrink or not on_etcd],
            ),
        )
