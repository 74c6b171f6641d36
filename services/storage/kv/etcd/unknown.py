"""Finding out what became of a transaction whose answer was lost.

Doing it again is safe where the transaction, once done, makes its own comparisons fail: it demands that a key be as it
was at some revision (or absent), and puts that key. If the second try is refused, the key shows whether the first one
was carried out. What cannot be found out stays an `OutcomeUnknownError`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from services.storage.kv.base import Compare, Field, KeyValue, OutcomeUnknownError, Put, Range, TxnReply
from services.storage.kv.requests import Txn

MAX_TRIES = 3

Submit = Callable[[Txn], Awaitable[TxnReply]]
# Of a key or prefix, at a revision; 0 is the present. Raises `OutcomeUnknownError` where that is compacted.
Read = Callable[[str, bool, int], Awaitable[tuple[KeyValue, ...]]]


async def submit(txn: Txn, once: Submit, read: Read) -> TxnReply:
    """Run `txn` by `once`, again where that is safe, and return its reply or what it must have been."""
    fence = _fence(txn)
    for attempt in range(MAX_TRIES):
        try:
            reply = await once(txn)
        except OutcomeUnknownError:
            if fence is None or attempt == MAX_TRIES - 1:
                raise
            continue
        if attempt == 0 or reply.succeeded or fence is None:
            return reply
        return await _refused(txn, fence, reply, read)
    raise AssertionError


def _fence(txn: Txn) -> tuple[Compare, Put] | None:
    """Return a comparison that `txn` itself makes fail, with the put that does."""
    puts = {op.key: op for op in txn.then if isinstance(op, Put)}
    for compare in txn.compares:
        # `absent`, or a revision of before: neither holds once the key has been put.
        if compare.equal and compare.key in puts and (compare.field is Field.MOD_REVISION or compare.value == 0):
            return compare, puts[compare.key]
    return None


async def _refused(txn: Txn, fence: tuple[Compare, Put], reply: TxnReply, read: Read) -> TxnReply:
    compare, put = fence
    found = await read(put.key, False, 0)  # noqa: FBT003 - see Read
    revision = 0
    if found:
        revision = found[0].create_revision if compare.field is Field.CREATE_REVISION else found[0].mod_revision
    if revision == compare.value:
        return reply  # it was another comparison that failed: the first try did nothing either
    done_at = found[0].mod_revision if found else 0
    for op in txn.then:
        if isinstance(op, Put):
            (kv,) = await read(op.key, False, 0) or (None,)  # noqa: FBT003
            if kv is None or (kv.value, kv.lease, kv.mod_revision) != (op.value, op.lease, done_at):
                raise OutcomeUnknownError(f"etcd lost the answer, and '{op.key}' has been changed since")
        elif isinstance(op, Range):
            raise OutcomeUnknownError("etcd lost the answer, and what was read with it")
    # All of it is there as we wanted it, made at one revision: it was us. What was there before is in the history.
    results = [await read(op.key, not isinstance(op, Put) and op.prefix, done_at - 1) for op in txn.then]
    return TxnReply(type(reply.header)(reply.header.cluster_id, done_at), succeeded=True, results=tuple(results))
