from __future__ import annotations

import grpc
import pytest

from services.storage.kv.base import RequestError, StorageError
from services.storage.kv.etcd.failures import AnswerError, Verdict, judge

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        (Code.UNAVAILABLE, "failed to connect to all addresses; last error: ...", Verdict.NOT_DONE),
        (Code.UNAVAILABLE, "etcdserver: no leader", Verdict.NOT_DONE),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Verdict.NOT_DONE),
        (Code.UNAVAILABLE, "Socket closed", Verdict.UNKNOWN),
        (Code.UNAVAILABLE, "etcdserver: request timed out", Verdict.UNKNOWN),
        (Code.UNAVAILABLE, "etcdserver: leader changed", Verdict.UNKNOWN),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", Verdict.UNKNOWN),
        (Code.UNAUTHENTICATED, "etcdserver: invalid auth token", Verdict.TOKEN),
        (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Verdict.TOKEN),
        (Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", Verdict.ANSWERED),
        (Code.NOT_FOUND, "etcdserver: requested lease not found", Verdict.ANSWERED),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Verdict.ANSWERED),
    ],
)
def test_judging(code: Code, details: str, verdict: Verdict) -> None:
    assert judge(code, details) is verdict


@pytest.mark.parametrize(
    ("code", "details", "kind", "text"),
    [
        (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", StorageError, "raise its quota"),
        (Code.PERMISSION_DENIED, "etcdserver: permission denied", StorageError, "denies its user"),
        (Code.INVALID_ARGUMENT, "etcdserver: request is too large", RequestError, "request is too large"),
        (Code.DATA_LOSS, "etcdserver: corrupt cluster", StorageError, "DATA_LOSS: corrupt cluster"),
    ],
)
def test_what_an_answer_means(code: Code, details: str, kind: type[Exception], text: str) -> None:
    error = AnswerError(code, details, unsure=False).as_kv_error()
    assert type(error) is kind
    assert text in str(error)
