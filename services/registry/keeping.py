"""Keeps what self-protection says is to be kept: in the store, so that every control process and restart agrees.

The store ends leases by itself, on etcd out of our sight. So the expiry is held back where it is read: what is kept is
written first, and the view then takes over the expiry and what was written as one change. Watchers never see a gap, and
whoever resumes from a revision in between (another process served it, or this one died before the write) hears of both.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator

from mesh.api.registry.v1 import Instance, Protection
from mesh.clock import Clock
from services.registry import records
from services.registry.protection import ProtectionOptions, SelfProtection
from services.registry.records import Key
from services.registry.view import View
from services.storage.kv.base import Batch, EventKind, Grant, KvError, Put, Store, absent, exists

# What one transaction takes, below the store's limits.
MAX_OPERATIONS = 100
MAX_BYTES = 1 << 20


class Keeping:
    """Self-protection on a store."""

    def __init__(self, store: Store, options: ProtectionOptions, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._options = options
        self._policy = SelfProtection[Instance](options, clock)
        # Since the view last moved: how many left, by service, and the leases of protections that it does not show yet.
        self._gone: Counter[str] = Counter()
        self._tripped: dict[str, int] = {}

    async def keep(self, view: View, batches: Iterable[Batch]) -> int:
        """Look through what comes next for `view`; write what is to be kept and return the revision it is written at.

        0 says that there is nothing to be kept. If it cannot be written, the instances are gone.
        """
        done = 0
        for service, (live, instances) in self._judge(view, batches).items():
            done = max(done, await self._write(view, service, live, instances))
        return done

    def moved(self) -> None:
        """Note that the view has taken over everything that was looked through."""
        self._gone.clear()
        self._tripped.clear()

    async def end(self, view: View) -> None:
        """End protections that are no longer needed, or have lasted as long as they may."""
        wall_ms = self._clock.wall_ns() // 1_000_000
        for service, protected in list(view.roster.protected.items()):
            kept = view.roster.kept_count(service)
            over = self._policy.is_over(view.count(service) - kept, kept)
            if over or wall_ms >= protected.protection.until_ms:
                with contextlib.suppress(KvError):  # somebody else was faster, or it is tried again
                    await self._store.revoke(protected.lease_id)

    def _judge(self, view: View, batches: Iterable[Batch]) -> dict[str, tuple[int, list[Instance]]]:
        """Return the instances to be kept by service, beside how many others of it live."""
        found: dict[str, tuple[int, list[Instance]]] = {}
        for event in (event for batch in batches for event in batch.events):
            if not event.key.startswith(records.INSTANCES):
                continue
            key = records.parse_key(event.key, records.INSTANCES)
            held = view.instances.get(key)
            if event.kv is not None:
                self._policy.came(key)
            elif held is not None and held.live:
                service = key[0]
                self._gone[service] += 1
                if event.kind is EventKind.EXPIRE:
                    live = view.count(service) - view.roster.kept_count(service) - self._gone[service]
                    protected = service in view.roster.protected or service in self._tripped or service in found
                    if kept := self._policy.expired(key, held.own, live, protected=protected):
                        found[service] = (live, [*found.get(service, (0, []))[1], *kept])
        return found

    async def _write(self, view: View, service: str, live: int, instances: list[Instance]) -> int:
        known = view.roster.protected.get(service)
        lease_id = self._tripped.get(service) or (known.lease_id if known is not None else 0)
        name = records.protection_key(service)
        done = 0
        for some in _chunks(instances):
            try:
                if lease_id:
                    reply = await self._store.txn((exists(name),), _puts(some, lease_id))
                else:
                    lease_id = secrets.randbelow(2**63 - 1) + 1
                    protection = self._protection(len(instances), live).SerializeToString()
                    writes = (Put(name, protection, lease_id), *_puts(some, lease_id))
                    grant = Grant(lease_id, self._options.max_seconds)
                    reply = await self._store.txn((absent(name),), writes, grant=grant)
            except KvError:
                return done
            done = reply.header.revision
            if not reply.succeeded:
                return done  # another control process was faster, and keeps the same ones
            self._tripped[service] = lease_id
        return done

    def _protection(self, kept: int, live: int) -> Protection:
        now_ms = self._clock.wall_ns() // 1_000_000
        until_ms = now_ms + round(self._options.max_seconds * 1000)
        return Protection(since_ms=now_ms, until_ms=until_ms, reason=self._policy.reason(kept, live))


def _chunks(instances: Iterable[Instance]) -> Iterator[list[Instance]]:
    chunk: list[Instance] = []
    size = 0
    for instance in instances:
        more = instance.ByteSize()
        if chunk and (len(chunk) == MAX_OPERATIONS or size + more > MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(instance)
        size += more
    if chunk:
        yield chunk


def _puts(instances: Iterable[Instance], lease_id: int) -> list[Put]:
    return [Put(records.kept_key(_key(one)), one.SerializeToString(), lease_id) for one in instances]


def _key(instance: Instance) -> Key:
    return instance.service, instance.instance_id
