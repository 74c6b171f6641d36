"""A transaction whose answer is lost, on a store that may or may not have carried it out."""

from __future__ import annotations

import pytest

from services.storage.kv.base import (
    Compare,
    Delete,
    Field,
    Header,
    KeyValue,
    OutcomeUnknownError,
    Put,
    Range,
    TxnReply,
    absent,
    unchanged,
)
from services.storage.kv.etcd import unknown
from services.storage.kv.requests import Outcome, Txn
from services.storage.kv.state import State


class Flaky:
    """A real state whose answers get lost: after the deed, or before it."""

    def __init__(self, *lost: str) -> None:
        self._lost = list(lost)
        self.states: list[State] = []
        self.state = State()
        self.run(Txn((), (Put("old", b"1"),)))

    def run(self, txn: Txn) -> Outcome:
        prepared = self.state.prepare([txn])
        self.state.commit(prepared)
        (outcome,) = prepared.outcomes
        assert isinstance(outcome, Outcome)
        return outcome

    async def once(self, txn: Txn) -> TxnReply:
        lost = self._lost.pop(0) if self._lost else ""
        outcome = self.run(txn) if lost != "before" else None
        if lost == "overwritten":
            self.run(Txn((), (Put("key", b"other"),)))
        if lost:
            raise OutcomeUnknownError("lost")
        assert outcome is not None
        return TxnReply(Header("c", outcome.revision), outcome.succeeded, outcome.results)

    async def read(self, key: str, prefix: bool, revision: int) -> tuple[KeyValue, ...]:  # noqa: FBT001
        state = self.state
        if revision:
            # As it was: the history, played again.
            state = State()
            for batch in self.state.since(1)[:revision]:
                ops = tuple(Put(event.key, event.kv.value) if event.kv else Delete(event.key) for event in batch.events)
                state.commit(state.prepare([Txn((), ops)]))
        if prefix:
            return tuple(state.scan(key))
        kv = state.get(key)
        return () if kv is None else (kv,)

    async def submit(self, txn: Txn) -> TxnReply:
        return await unknown.submit(txn, self.once, self.read)


CREATE = Txn((absent("key"),), (Put("key", b"mine"), Delete("old")))
EXPECTED = ((), (KeyValue("old", b"1", 1, 1),))


@pytest.mark.parametrize("lost", [(), ("before",), ("after",), ("before", "before"), ("before", "after")])
async def test_a_transaction_that_bars_itself_is_done_once_and_answered_in_full(lost: tuple[str, ...]) -> None:
    store = Flaky(*lost)
    assert await store.submit(CREATE) == TxnReply(Header("c", 2), succeeded=True, results=EXPECTED)
    assert store.state.revision == 2


async def test_one_that_changes_a_key_at_a_revision_bars_itself_too() -> None:
    store = Flaky("after")
    reply = await store.submit(Txn((unchanged("old", 1),), (Put("old", b"2"),)))
    assert reply == TxnReply(Header("c", 2), succeeded=True, results=((KeyValue("old", b"1", 1, 1),),))


@pytest.mark.parametrize(
    "txn",
    [
        Txn((), (Put("key", b""),)),
        Txn((absent("key"),), (Put("other", b""),)),
        Txn((Compare("old", Field.CREATE_REVISION, 1),), (Put("old", b"2"),)),
        Txn((Compare("key", Field.MOD_REVISION, 7, equal=False),), (Put("key", b""),)),
    ],
)
async def test_one_that_could_be_done_twice_is_not_tried_again(txn: Txn) -> None:
    store = Flaky("before")
    with pytest.raises(OutcomeUnknownError):
        await store.submit(txn)
    assert store.state.revision == 1


async def test_what_was_overwritten_meanwhile_stays_unknown() -> None:
    with pytest.raises(OutcomeUnknownError, match="changed since"):
        await Flaky("overwritten").submit(CREATE)


async def test_what_was_read_with_it_is_lost() -> None:
    with pytest.raises(OutcomeUnknownError, match="read with it"):
        await Flaky("after").submit(Txn((absent("key"),), (Put("key", b"mine"), Range("old"))))


async def test_a_refusal_for_another_reason_is_believed() -> None:
    store = Flaky("before")
    reply = await store.submit(Txn((absent("key"), absent("old")), (Put("key", b"mine"),), (Range("old"),)))
    assert (reply.succeeded, reply.results) == (False, ((KeyValue("old", b"1", 1, 1),),))


async def test_it_does_not_try_for_ever() -> None:
    with pytest.raises(OutcomeUnknownError, match="lost"):
        await Flaky(*["before"] * unknown.MAX_TRIES).submit(CREATE)
