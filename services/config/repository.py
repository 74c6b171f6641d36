"""Reads and writes the records of the configuration, over any revisioned store."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from mesh.clock import Clock
from services.config import records, secrets
from services.config.cache import Cache
from services.config.errors import UnknownError
from services.config.keys import Token
from services.config.records import App, Audit, Release, StoredText
from services.config.secrets import Sealed
from services.config.text import Format
from services.config.tree import Document
from services.storage.kv.base import Delete, KeyValue, Operation, Put, Range, StorageError, Store, unchanged

R = TypeVar("R")

# How often a change is decided anew because another control process came between; each time one of them got on.
MAX_ATTEMPTS = 100
_CACHED_BYTES = 64 << 20
_CACHED_RELEASES = 1024
# Records that are asked for at once: texts may be large, and a reply has to fit into memory.
_CHUNK = 32
# Characters: what takes more than some milliseconds to read.
_LARGE = 16 * 1024


@dataclass(frozen=True, slots=True)
class Known(Generic[R]):
    """A record and the revision of its last change."""

    value: R
    revision: int


@dataclass(frozen=True, slots=True)
class Change(Generic[R]):
    """What shall become of an application, and what its requester is told then."""

    app: App
    # Without author and time where `commit` knows them.
    audit: Audit | None
    result: R
    writes: Sequence[Operation] = ()


class Repository:
    """The records of all applications."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self._clock = clock
        # By key.
        self._texts: Cache[str, StoredText] = Cache(_CACHED_BYTES)
        self._documents: Cache[tuple[str, int], Document] = Cache(_CACHED_BYTES)
        self._releases: Cache[tuple[str, int], Release] = Cache(_CACHED_RELEASES)
        # Changes of one application from this process wait for each other, instead of failing each other.
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def now_ms(self) -> int:
        return self._clock.wall_ns() // 1_000_000

    async def find(self, name: str) -> Known[App] | None:
        """Return the application; None when nothing was ever put under that name."""
        kv = await self.store.get(records.app_key(name))
        return None if kv is None else Known(records.decode_app(name, kv.value), kv.mod_revision)

    async def app(self, name: str) -> Known[App]:
        found = await self.find(name)
        if found is None:
            raise unknown_application(name)
        return found

    async def apps(self) -> list[Known[App]]:
        reply = await self.store.range(records.APPS, prefix=True)
        return [
            Known(records.decode_app(kv.key.removeprefix(records.APPS), kv.value), kv.mod_revision) for kv in reply.kvs
        ]

    async def release(self, app: str, number: int) -> Release:
        return (await self.releases(app, [number]))[0]

    async def releases(self, app: str, numbers: Sequence[int]) -> list[Release]:
        """Return releases in the order of `numbers`; `UnknownError` for one that there is not."""
        found = {number: self._releases.get((app, number)) for number in numbers}
        missing = [number for number, release in found.items() if release is None]
        for number, kv in zip(missing, await self._read("releases", app, missing), strict=True):
            if kv is None:
                raise UnknownError("release", f"{app}/{number}", f"'{app}' has no release {number}")
            found[number] = self._releases.put((app, number), records.decode_release(number, kv.value))
        return [release for release in found.values() if release is not None]

    async def texts(self, kind: str, app: str, ids: Iterable[int]) -> dict[int, StoredText]:
        """Return stored texts by id, those that are still kept."""
        found = {number: self._texts.get(records.key(kind, app, number)) for number in ids if number}
        missing = [number for number, text in found.items() if text is None]
        for number, kv in zip(missing, await self._read(kind, app, missing), strict=True):
            if kv is not None:
                text = records.decode_text(kv.value, kv.create_revision)
                found[number] = self._texts.put(kv.key, text, len(kv.value))
        return {number: text for number, text in found.items() if text is not None}

    async def documents(self, app: str, ids: Iterable[int]) -> dict[int, Document]:
        """Return documents by id. They are shared: nobody may change one."""
        found = {number: self._documents.get((app, number)) for number in ids}
        missing = [number for number, document in found.items() if document is None]
        for number, text in (await self.texts("documents", app, missing)).items():
            document = (await read(text.text, text.form)).document
            found[number] = self._documents.put((app, number), document, 4 * len(text.text))
        return {number: document for number, document in found.items() if document is not None}

    async def tokens(self, app: str, ids: Sequence[str]) -> dict[str, Token]:
        """Return encrypted secrets by id, those that there are."""
        kvs = await self._read("secrets", app, ids)
        return {name: records.decode_token(kv.value) for name, kv in zip(ids, kvs, strict=True) if kv is not None}

    async def audit(self, app: str, numbers: Sequence[int]) -> list[Audit]:
        kvs = await self._read("audit", app, numbers)
        return [records.decode_audit(kv.value, kv.mod_revision) for kv in kvs if kv is not None]

    async def change(self, name: str, decide: Callable[[App, int], Awaitable[Change[R]]]) -> tuple[R, int]:
        """Let `decide` make a change of the application as it is now, a new one if need be, and write that.

        `decide` is given the application and the revision it is at, and called again when that is no longer so.
        Returns its result and the revision of the change.
        """
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            for _ in range(MAX_ATTEMPTS):
                known = await self.find(name) or Known(App(name), 0)
                change = await decide(known.value, known.revision)
                if change.audit is None:  # nothing to be done
                    return change.result, self.store.header.revision
                number = known.value.changes + 1
                writes = (
                    Put(records.app_key(name), records.encode_app(replace(change.app, changes=number))),
                    Put(records.key("audit", name, number), records.encode_audit(change.audit)),
                    *change.writes,
                )
                reply = await self.store.txn((unchanged(records.app_key(name), known.revision),), writes)
                if reply.succeeded:
                    for write in change.writes:
                        if isinstance(write, Delete):
                            self._texts.drop(write.key)
                    return change.result, reply.header.revision
        raise StorageError(f"'{name}' changes too fast to be written: try again")

    async def _read(self, kind: str, app: str, names: Sequence[str | int]) -> list[KeyValue | None]:
        """Return records by name, with as few questions to the store as may be."""
        found: list[KeyValue | None] = []
        for begin in range(0, len(names), _CHUNK):
            part = names[begin : begin + _CHUNK]
            reply = await self.store.txn((), [Range(records.key(kind, app, name)) for name in part])
            found += [kvs[0] if kvs else None for kvs in reply.results]
        return found


async def read(text: str, form: Format) -> Sealed:
    """Read a document: a large one in a thread, so that watches go on meanwhile."""
    return await asyncio.to_thread(secrets.seal, text, form) if len(text) > _LARGE else secrets.seal(text, form)


def unknown_application(name: str) -> UnknownError:
    return UnknownError("application", name, f"there is no application '{name}': put a document to make it")
