"""The revisioned key-value interface that Registry and Config stand on, in the shape of etcd's.

A revision grows with each request that changes something (by one, but for what a driver keeps for itself); all changes
of one request share it. Keys are text and ordered by code point. Every driver must behave alike; what one of them
cannot do is not in here.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import AsyncGenerator, Sequence
from typing import Self

from mesh.errors import MeshError, Source
from services.storage.kv.record import record

MAX_REQUEST_BYTES = 1536 * 1024
MAX_TXN_OPERATIONS = 128


class KvError(MeshError):
    """The root of what a store raises."""


class StorageError(KvError):
    """The request could not be made durable. Nothing of it is visible now, and trying again may help."""

    retryable = True


class OutcomeUnknownError(StorageError):
    """The request was under way when the store went out of reach: it may have been carried out, or be so even now.

    Trying again is safe only where doing it twice does no harm. Read, and decide anew.
    """

    retryable = False


class RequestError(KvError):
    """The request breaks a limit or contradicts itself."""

    source = Source.DOWNSTREAM


class LeaseNotFoundError(KvError):
    """No such lease: it never was, has expired or was revoked."""

    source = Source.DOWNSTREAM

    def __init__(self, lease_id: int) -> None:
        super().__init__(f"lease {lease_id} does not exist")
        self.lease_id = lease_id


class CompactedError(KvError):
    """Changes up to `compact_revision` are no longer kept: read the state, then watch from its revision + 1."""

    source = Source.DOWNSTREAM

    def __init__(self, compact_revision: int) -> None:
        super().__init__(f"revisions up to {compact_revision} have been compacted")
        self.compact_revision = compact_revision


@record
class KeyValue:
    """One key as it stands since `mod_revision`."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    # The lease that the key goes with; 0 is none.
    lease: int = 0


class EventKind(enum.Enum):
    """What happened to a key."""

    PUT = 0
    DELETE = 1
    # Its lease ran out. (Revoking a lease deletes.)
    EXPIRE = 2


@record
class Event:
    """One change of one key."""

    kind: EventKind
    key: str
    # After and before; None where there is nothing.
    kv: KeyValue | None
    prev: KeyValue | None


@record
class Batch:
    """All changes of one revision, or no events: nothing that is watched changed up to `revision`."""

    revision: int
    events: tuple[Event, ...]


class Field(enum.Enum):
    """What a comparison looks at. Both are 0 for a key that does not exist."""

    CREATE_REVISION = 0
    MOD_REVISION = 1


@record
class Compare:
    """Holds when `field` of `key` equals `value` (or differs from it, with `equal` false)."""

    key: str
    field: Field
    value: int
    equal: bool = True


def exists(key: str) -> Compare:
    return Compare(key, Field.CREATE_REVISION, 0, equal=False)


def absent(key: str) -> Compare:
    return Compare(key, Field.CREATE_REVISION, 0)


def unchanged(key: str, mod_revision: int) -> Compare:
    """Holds while `key` is as it was at `mod_revision`; 0 says that it does not exist."""
    return Compare(key, Field.MOD_REVISION, mod_revision)


@record
class Put:
    """Results in the key as it was before, if it was."""

    key: str
    value: bytes
    lease: int = 0


@record
class Delete:
    """Delete one key, or all with that prefix. Results in what was deleted."""

    key: str
    prefix: bool = False


@record
class Range:
    """Read one key, or all with that prefix. Results in what was found, ordered by key."""

    key: str
    prefix: bool = False


Operation = Put | Delete | Range


@record
class Grant:
    """A lease to be granted. The id is the caller's to choose: positive, below 2**63, hard to guess."""

    lease_id: int
    # Seconds.
    ttl: float


@record
class Header:
    """Which store answered, and its revision when it did."""

    cluster_id: str
    revision: int


@record
class RangeReply:
    header: Header
    kvs: tuple[KeyValue, ...]


@record
class TxnReply:
    header: Header
    # Whether the comparisons held.
    succeeded: bool
    # One for each operation that ran.
    results: tuple[tuple[KeyValue, ...], ...]


@record
class LeaseReply:
    header: Header
    lease_id: int
    # Seconds: as granted, which may be more than was asked for (etcd counts in whole seconds), and left now.
    ttl: float
    remaining: float


class Store(abc.ABC):
    """A driver. Reads see committed state only; a write returns when it is durable.

    Raises `StorageError` when it cannot be served now, from writes `OutcomeUnknownError` where that cannot be told, and
    `RequestError` for what no store would take. Use as `async with store`, which opens and closes it.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    @abc.abstractmethod
    def header(self) -> Header:
        """What is known of the store without asking it."""

    @abc.abstractmethod
    async def range(self, key: str, *, prefix: bool = False) -> RangeReply:
        """Return one key, or all that begin with `key`, in order."""

    @abc.abstractmethod
    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Operation],
        orelse: Sequence[Operation] = (),
        *,
        grant: Grant | None = None,
    ) -> TxnReply:
        """Run `then` if all of `compares` hold, else `orelse`, at one revision.

        `grant` is granted if the comparisons hold, before `then` runs, which may bind keys to it. A key that is put in
        one of the two lists may not be put or deleted again in the same list.

        Raises:
            LeaseNotFoundError: an operation binds a key to a lease that does not exist; nothing is done.

        """

    @abc.abstractmethod
    async def grant(self, grant: Grant) -> LeaseReply:
        """Grant a lease."""

    @abc.abstractmethod
    async def keepalive(self, lease_id: int) -> LeaseReply:
        """Let the lease live for its whole ttl from now on, or raise `LeaseNotFoundError`."""

    @abc.abstractmethod
    async def time_to_live(self, lease_id: int) -> LeaseReply:
        """Return what is left of the lease, or raise `LeaseNotFoundError`."""

    @abc.abstractmethod
    async def revoke(self, lease_id: int) -> Header:
        """End the lease and delete its keys, at one revision, or raise `LeaseNotFoundError`."""

    @abc.abstractmethod
    def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[Batch, None]:
        """Yield the changes under `prefix` from `start_revision` on, a revision at a time, none missed or repeated.

        Raises:
            CompactedError: they are no longer all kept, at the start or because the reader fell behind.
            StorageError: the store has been closed.

        """

    @abc.abstractmethod
    async def compact(self, revision: int) -> Header:
        """Forget the changes up to `revision`; `CompactedError` when they are forgotten already."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Finish what was accepted, then let go of everything."""

    async def get(self, key: str) -> KeyValue | None:
        kvs = (await self.range(key)).kvs
        return kvs[0] if kvs else None

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> TxnReply:
        return await self.txn((), (Put(key, value, lease),))

    async def delete(self, key: str, *, prefix: bool = False) -> TxnReply:
        return await self.txn((), (Delete(key, prefix),))
