"""Between our requests and etcd's messages. Pure.

`NAMESPACE/k/KEY`           a key of ours
`NAMESPACE/m/cluster`       an id, made when the namespace is first used: etcd's own cluster id would survive a wipe
`NAMESPACE/m/lease/ID`      the companion of a lease, bound to it. etcd deletes the keys of a lease in one revision and
                            does not say why; that the companion goes with them says that the lease ended, and what it
                            held says how: `REVOKED` was written just before a revocation.
`NAMESPACE/m/beat`          written to bring watchers up to a revision that others made outside of the namespace
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.api.etcd import v3
from services.storage.kv.base import Compare, Delete, Field, KeyValue, Operation, Put, Range
from services.storage.kv.requests import Txn

REVOKED = b"revoked"


class Layout:
    """Where our keys are in etcd."""

    def __init__(self, namespace: str) -> None:
        root = namespace.strip("/").encode() + b"/"
        self.everything = v3.RangeRequest(key=root, range_end=end_of(root))
        self._keys = root + b"k/"
        self._leases = root + b"m/lease/"
        self.cluster = root + b"m/cluster"
        self.beat = root + b"m/beat"

    def key(self, key: str) -> bytes:
        return self._keys + key.encode()

    def own_key(self, raw: bytes) -> str | None:
        """Return the key as the store's users know it; None when it is not for them."""
        return raw[len(self._keys) :].decode() if raw.startswith(self._keys) else None

    def companion(self, lease_id: int) -> bytes:
        return self._leases + b"%x" % lease_id

    def own_lease(self, raw: bytes) -> int | None:
        """Return the lease whose companion the key is; None when it is another key."""
        return int(raw[len(self._leases) :], 16) if raw.startswith(self._leases) else None

    def key_value(self, kv: v3.KeyValue) -> KeyValue:
        key = self.own_key(kv.key)
        assert key is not None
        return KeyValue(key, kv.value, kv.create_revision, kv.mod_revision, kv.lease)

    def range(self, key: str, *, prefix: bool, revision: int = 0) -> v3.RangeRequest:
        raw = self.key(key)
        return v3.RangeRequest(key=raw, range_end=end_of(raw) if prefix else b"", revision=revision)

    def txn(self, txn: Txn) -> v3.TxnRequest:
        return v3.TxnRequest(
            compare=map(self._compare, txn.compares),
            success=map(self._op, txn.then),
            failure=map(self._op, txn.orelse),
        )

    def companion_put(self, lease_id: int, value: bytes = b"") -> v3.RequestOp:
        put = v3.PutRequest(key=self.companion(lease_id), value=value, lease=lease_id)
        return v3.RequestOp(request_put=put)

    def results(self, ops: Sequence[Operation], replies: Iterable[v3.ResponseOp]) -> tuple[tuple[KeyValue, ...], ...]:
        # What was asked for beyond `ops`, a companion, comes last and is nobody's business.
        return tuple(self._result(reply) for _, reply in zip(ops, replies, strict=False))

    def _compare(self, compare: Compare) -> v3.Compare:
        result = v3.COMPARE_RESULT_EQUAL if compare.equal else v3.COMPARE_RESULT_NOT_EQUAL
        key = self.key(compare.key)
        if compare.field is Field.CREATE_REVISION:
            return v3.Compare(key=key, result=result, target=v3.COMPARE_TARGET_CREATE, create_revision=compare.value)
        return v3.Compare(key=key, result=result, target=v3.COMPARE_TARGET_MOD, mod_revision=compare.value)

    def _op(self, op: Operation) -> v3.RequestOp:
        match op:
            case Put(key, value, lease):
                put = v3.PutRequest(key=self.key(key), value=value, lease=lease, prev_kv=True)
                return v3.RequestOp(request_put=put)
            case Delete(key, prefix):
                raw = self.key(key)
                end = end_of(raw) if prefix else b""
                return v3.RequestOp(request_delete_range=v3.DeleteRangeRequest(key=raw, range_end=end, prev_kv=True))
            case Range(key, prefix):
                return v3.RequestOp(request_range=self.range(key, prefix=prefix))

    def _result(self, reply: v3.ResponseOp) -> tuple[KeyValue, ...]:
        match reply.WhichOneof("response"):
            case "response_put":
                put = reply.response_put
                return (self.key_value(put.prev_kv),) if put.HasField("prev_kv") else ()
            case "response_delete_range":
                return tuple(map(self.key_value, reply.response_delete_range.prev_kvs))
            case _:
                return tuple(map(self.key_value, reply.response_range.kvs))


def end_of(prefix: bytes) -> bytes:
    """Return the end of the range of all keys with `prefix`, which is UTF-8 and not empty."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))
