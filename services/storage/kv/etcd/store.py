"""The store on etcd. It keeps nothing itself: any number of control processes may use one namespace."""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Self

from mesh.api.etcd import v3
from mesh.errors import StartError
from services.storage.kv.base import (
    MAX_TXN_OPERATIONS,
    Batch,
    CompactedError,
    Compare,
    Grant,
    Header,
    KeyValue,
    KvError,
    LeaseNotFoundError,
    LeaseReply,
    Operation,
    OutcomeUnknownError,
    Put,
    Range,
    RangeReply,
    RequestError,
    StorageError,
    Store,
    TxnReply,
)
from services.storage.kv.etcd import members as etcd
from services.storage.kv.etcd import unknown
from services.storage.kv.etcd.assemble import Assembler
from services.storage.kv.etcd.beat import Beat
from services.storage.kv.etcd.failures import AnswerError
from services.storage.kv.etcd.keepalive import KeepAlives
from services.storage.kv.etcd.members import Members
from services.storage.kv.etcd.options import EtcdOptions
from services.storage.kv.etcd.watch import follow
from services.storage.kv.etcd.wire import REVOKED, Layout
from services.storage.kv.requests import Txn, check_txn

# How often what is too old is compacted away.
COMPACT_EVERY = 60.0


class _LeaseExistsError(Exception):
    """A lease cannot be granted, because its id is taken."""


class EtcdStore(Store):
    """Use as `async with EtcdStore(options) as store`, which waits until etcd answers."""

    def __init__(self, options: EtcdOptions) -> None:
        self._options = options
        self._layout = Layout(options.namespace)
        self._members = Members(options)
        self._keepalives = KeepAlives(self._members, options.timeout)
        self._beat = Beat(self._write_beat)
        self._cluster_id = ""
        self._revision = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            StartError: no etcd answers, or it does not let us in.

        """
        try:
            self._cluster_id = await self._find_cluster()
        except StorageError as error:
            await self._members.close()
            raise StartError(f"the store cannot be opened: {error}") from error
        self._tasks = [
            asyncio.create_task(self._keepalives.run()),
            asyncio.create_task(self._beat.run()),
            asyncio.create_task(self._compactions()),
        ]
        return self

    @property
    def header(self) -> Header:
        return Header(self._cluster_id, self._revision)

    async def range(self, key: str, *, prefix: bool = False) -> RangeReply:
        reply = await self._call(etcd.RANGE, self._layout.range(key, prefix=prefix), repeatable=True)
        return RangeReply(self._header(reply.header), tuple(map(self._layout.key_value, reply.kvs)))

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Operation],
        orelse: Sequence[Operation] = (),
        *,
        grant: Grant | None = None,
    ) -> TxnReply:
        txn = Txn(tuple(compares), tuple(then), tuple(orelse), grant)
        check_txn(txn)
        if grant is None:
            return await unknown.submit(txn, self._once, self._read)
        try:
            await self._grant(grant)
        except _LeaseExistsError:
            # Which matters only if the comparisons hold.
            reply = await self.txn(compares, (), orelse)
            if reply.succeeded:
                raise RequestError(f"lease {grant.lease_id} exists already") from None
            return reply
        # It is granted before the comparisons are made: if they fail, nothing may be bound to it.
        forbidden = any(isinstance(op, Put) and op.lease == grant.lease_id for op in txn.orelse)
        if forbidden:
            txn = Txn(txn.compares, txn.then, (), grant)
        try:
            reply = await unknown.submit(txn, self._once, self._read)
        except OutcomeUnknownError:
            raise  # keys may be bound to it; if nobody renews it, it runs out
        except KvError:
            await self._take_back(grant)
            raise
        if not reply.succeeded:
            await self._take_back(grant)
            if forbidden:
                raise LeaseNotFoundError(grant.lease_id)
        return reply

    async def grant(self, grant: Grant) -> LeaseReply:
        check_txn(Txn((), (), grant=grant))
        try:
            ttl = await self._grant(grant)
        except _LeaseExistsError:
            raise RequestError(f"lease {grant.lease_id} exists already") from None
        await self._put_companion(grant.lease_id, b"")
        return LeaseReply(self.header, grant.lease_id, ttl, ttl)

    async def keepalive(self, lease_id: int) -> LeaseReply:
        reply = await self._keepalives.renew(lease_id)
        if reply.ttl <= 0:
            raise LeaseNotFoundError(lease_id)
        return LeaseReply(self._header(reply.header), lease_id, reply.ttl, reply.ttl)

    async def time_to_live(self, lease_id: int) -> LeaseReply:
        reply = await self._call(etcd.TIME_TO_LIVE, v3.LeaseTimeToLiveRequest(id=lease_id), repeatable=True)
        if reply.ttl < 0:
            raise LeaseNotFoundError(lease_id)
        return LeaseReply(self._header(reply.header), lease_id, reply.granted_ttl, reply.ttl)

    async def revoke(self, lease_id: int) -> Header:
        # The companion first, else those who watch would take it for an expiry.
        await self._put_companion(lease_id, REVOKED)
        try:
            reply = await self._members.call(etcd.REVOKE, v3.LeaseRevokeRequest(id=lease_id), repeatable=True)
        except AnswerError as error:
            if not error.lease_missing:
                raise error.as_kv_error() from error
            # It ran out just now, or a first try was carried out: gone it is, and was meant to be.
            return (await self.range("")).header
        return self._header(reply.header)

    async def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[Batch, None]:
        if start_revision < 1:
            raise CompactedError(0)
        assembler = Assembler(self._layout, prefix, start_revision)
        self._beat.followers.add(assembler)
        try:
            async with contextlib.aclosing(follow(self._members, assembler)) as batches:
                async for batch in batches:
                    self._revision = max(self._revision, batch.revision)
                    yield batch
        finally:
            self._beat.followers.discard(assembler)

    async def compact(self, revision: int) -> Header:
        try:
            reply = await self._members.call(etcd.COMPACT, v3.CompactionRequest(revision=revision), repeatable=True)
        except AnswerError as error:
            if error.compacted and error.unsure:
                return (await self.range("")).header
            if error.compacted:
                raise CompactedError(await self._compact_revision()) from error
            if "future revision" in error.details:
                raise RequestError(f"revision {revision} is still to come: the last one is {self._revision}") from error
            raise error.as_kv_error() from error
        return self._header(reply.header)

    async def close(self) -> None:
        await self._members.close()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError, StorageError):
                await task
        self._keepalives.fail()

    async def _call(self, method: etcd.Method[etcd.Q, etcd.R], request: etcd.Q, *, repeatable: bool) -> etcd.R:
        try:
            return await self._members.call(method, request, repeatable=repeatable)
        except AnswerError as error:
            raise error.as_kv_error() from error

    def _header(self, header: v3.ResponseHeader) -> Header:
        """Take note of a reply's header, and return it as ours."""
        self._revision = max(self._revision, header.revision)
        self._beat.told(header.revision)
        return Header(self._cluster_id, header.revision)

    async def _once(self, txn: Txn) -> TxnReply:
        """Run a transaction whose lease, if it has one, has been granted."""
        request = self._layout.txn(txn)
        if txn.grant is not None:
            if len(txn.then) < MAX_TXN_OPERATIONS:
                request.success.append(self._layout.companion_put(txn.grant.lease_id))
            else:
                await self._put_companion(txn.grant.lease_id, b"")
        repeatable = all(isinstance(op, Range) for op in (*txn.then, *txn.orelse))
        try:
            reply = await self._members.call(etcd.TXN, request, repeatable=repeatable)
        except AnswerError as error:
            if error.lease_missing:
                raise LeaseNotFoundError(await self._missing_lease(txn)) from error
            raise error.as_kv_error() from error
        ops = txn.then if reply.succeeded else txn.orelse
        results = self._layout.results(ops, reply.responses)
        return TxnReply(self._header(reply.header), reply.succeeded, results)

    async def _read(self, key: str, prefix: bool, revision: int) -> tuple[KeyValue, ...]:  # noqa: FBT001 - see unknown.Read
        request = self._layout.range(key, prefix=prefix, revision=revision)
        try:
            reply = await self._members.call(etcd.RANGE, request, repeatable=True)
        except AnswerError as error:
            raise OutcomeUnknownError("etcd lost the answer, and has compacted what would tell") from error
        return tuple(map(self._layout.key_value, reply.kvs))

    async def _grant(self, grant: Grant) -> float:
        # etcd counts in whole seconds, and grants at least what it needs to notice a dead leader.
        request = v3.LeaseGrantRequest(id=grant.lease_id, ttl=math.ceil(grant.ttl))
        try:
            return (await self._members.call(etcd.GRANT, request, repeatable=True)).ttl
        except AnswerError as error:
            if error.lease_exists and error.unsure:
                return request.ttl  # ids are hard to guess: it was our own first try
            if error.lease_exists:
                raise _LeaseExistsError from error
            raise error.as_kv_error() from error

    async def _take_back(self, grant: Grant) -> None:
        """End a lease that nothing came to be bound to; if that fails it runs out by itself."""
        with contextlib.suppress(StorageError, AnswerError):
            await self._members.call(etcd.REVOKE, v3.LeaseRevokeRequest(id=grant.lease_id), repeatable=True)

    async def _put_companion(self, lease_id: int, value: bytes) -> None:
        request = v3.TxnRequest(success=[self._layout.companion_put(lease_id, value)])
        try:
            self._header((await self._members.call(etcd.TXN, request, repeatable=True)).header)
        except AnswerError as error:
            raise (LeaseNotFoundError(lease_id) if error.lease_missing else error.as_kv_error()) from error

    async def _missing_lease(self, txn: Txn) -> int:
        leases = [op.lease for op in (*txn.then, *txn.orelse) if isinstance(op, Put) and op.lease]
        for lease_id in leases:
            try:
                await self.time_to_live(lease_id)
            except LeaseNotFoundError:
                return lease_id
        return leases[0]

    async def _find_cluster(self) -> str:
        """Return the id of what the namespace holds; it is made with the first use."""
        key, made = self._layout.cluster, uuid.uuid4().hex.encode()
        request = v3.TxnRequest(
            compare=[v3.Compare(key=key, target=v3.COMPARE_TARGET_CREATE, create_revision=0)],
            success=[v3.RequestOp(request_put=v3.PutRequest(key=key, value=made))],
            failure=[v3.RequestOp(request_range=v3.RangeRequest(key=key))],
        )
        reply = await self._call(etcd.TXN, request, repeatable=True)
        self._header(reply.header)
        found = made if reply.succeeded else reply.responses[0].response_range.kvs[0].value
        return found.decode()

    async def _write_beat(self) -> int:
        put = v3.RequestOp(request_put=v3.PutRequest(key=self._layout.beat))
        reply = await self._call(etcd.TXN, v3.TxnRequest(success=[put]), repeatable=True)
        return reply.header.revision

    async def _compact_revision(self) -> int:
        """Return up to where etcd has been compacted; only a watch that comes too late is told."""
        try:
            async with contextlib.aclosing(follow(self._members, Assembler(self._layout, "", 1))) as batches:
                async for _ in batches:
                    break
        except CompactedError as error:
            return error.compact_revision
        return 0

    async def _compactions(self) -> None:
        while self._options.keep:
            await asyncio.sleep(COMPACT_EVERY)
            with contextlib.suppress(StorageError, CompactedError, RequestError):
                # Other control processes do the same; one of them comes first.
                if self._revision > self._options.keep:
                    await self.compact(self._revision - self._options.keep)
