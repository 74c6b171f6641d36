"""What a store is asked to change, its limits, and what comes of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.storage.kv.base import (
    MAX_REQUEST_BYTES,
    MAX_TXN_OPERATIONS,
    Compare,
    Delete,
    Grant,
    KeyValue,
    Operation,
    Put,
    RequestError,
)
from services.storage.kv.record import record

MAX_LEASE_ID = 2**63 - 1


@record
class Txn:
    compares: tuple[Compare, ...]
    then: tuple[Operation, ...]
    orelse: tuple[Operation, ...] = ()
    grant: Grant | None = None


@record
class Revoke:
    lease_id: int
    # It ran out, rather than being given up.
    expired: bool = False


@record
class Compact:
    revision: int


Request = Txn | Revoke | Compact


@record
class Outcome:
    """What a request comes to, once it is durable."""

    revision: int
    succeeded: bool = True
    results: tuple[tuple[KeyValue, ...], ...] = ()


def check_txn(txn: Txn) -> None:
    """Raise `RequestError` for what goes beyond the limits, whatever the state."""
    for part in (txn.compares, txn.then, txn.orelse):
        if len(part) > MAX_TXN_OPERATIONS:
            raise RequestError(f"a transaction has at most {MAX_TXN_OPERATIONS} operations, this one {len(part)}")
    # A character has at most four bytes; they are counted where that comes near the limit.
    if _size(txn, lambda key: 4 * len(key)) > MAX_REQUEST_BYTES and (
        (size := _size(txn, lambda key: len(key.encode()))) > MAX_REQUEST_BYTES
    ):
        raise RequestError(f"a request has at most {MAX_REQUEST_BYTES} bytes, this one {size}")
    _check_twice(txn.then)
    _check_twice(txn.orelse)
    grant = txn.grant
    if grant is not None and not (0 < grant.lease_id <= MAX_LEASE_ID and 0 < grant.ttl < float("inf")):
        raise RequestError("a lease needs a positive id below 2**63 and a positive ttl")


def _size(txn: Txn, of_key: Callable[[str], int]) -> int:
    size = 0
    for ops in (txn.then, txn.orelse):
        for op in ops:
            size += of_key(op.key) + (len(op.value) if isinstance(op, Put) else 0)
    return size


def _check_twice(ops: Sequence[Operation]) -> None:
    """Refuse what might change a key twice, judged by the request alone, as etcd does."""
    if len(ops) < 2:
        return
    puts: set[str] = set()
    for op in ops:
        if isinstance(op, Put):
            if op.key in puts:
                raise RequestError(f"key '{op.key}' is changed twice in one transaction")
            puts.add(op.key)
    for op in ops:
        if isinstance(op, Delete) and any(key.startswith(op.key) if op.prefix else key == op.key for key in puts):
            raise RequestError(f"a key at '{op.key}' is both put and deleted in one transaction")
