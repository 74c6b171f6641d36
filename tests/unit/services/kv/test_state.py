from __future__ import annotations

import pytest

from services.storage.kv.base import (
    MAX_REQUEST_BYTES,
    MAX_TXN_OPERATIONS,
    CompactedError,
    Grant,
    Operation,
    Put,
    Range,
    RequestError,
)
from services.storage.kv.requests import Txn, check_txn
from services.storage.kv.state import State


def put(state: State, key: str, value: bytes = b"") -> None:
    state.commit(state.prepare([Txn((), (Put(key, value),))]))


def test_history_is_bounded_and_says_so() -> None:
    state = State(keep=100)
    for number in range(500):
        put(state, f"key{number % 7}")
    assert 100 <= state.revision - state.compact_revision <= 110
    assert len(state.since(state.compact_revision + 1)) == state.revision - state.compact_revision
    with pytest.raises(CompactedError) as caught:
        state.since(state.compact_revision)
    assert caught.value.compact_revision == state.compact_revision


def test_a_history_with_a_gap_is_not_taken() -> None:
    with pytest.raises(ValueError, match="gaps"):
        State(revision=3)


@pytest.mark.parametrize(
    ("operations", "grant"),
    [
        ([Range("a")] * (MAX_TXN_OPERATIONS + 1), None),
        ([Put("a", bytes(MAX_REQUEST_BYTES))], None),
        ([Put("a", bytes(MAX_REQUEST_BYTES // 2)), Put("b", bytes(MAX_REQUEST_BYTES // 2))], None),
        ([], Grant(0, 1.0)),
        ([], Grant(2**63, 1.0)),
        ([], Grant(1, 0.0)),
        ([], Grant(1, float("inf"))),
        ([], Grant(1, float("nan"))),
    ],
)
def test_what_is_over_a_limit_is_refused(operations: list[Operation], grant: Grant | None) -> None:
    with pytest.raises(RequestError):
        check_txn(Txn((), tuple(operations), grant=grant))


def test_what_is_at_a_limit_is_taken() -> None:
    check_txn(Txn((), (Put("a", bytes(MAX_REQUEST_BYTES - 1)),)))
    check_txn(Txn((), (Range("a"),) * MAX_TXN_OPERATIONS, grant=Grant(2**63 - 1, 0.1)))
