"""How alerts lie in the key-value store, and a copy of them in memory that follows it.

`metrics/rules/FILE`              the YAML of a file of rules; empty for the default rules taken out
`metrics/alerts/FINGERPRINT`      an alert that is not inactive, and what of it was delivered
`metrics/silences/ID`             a silence

They are few and small, change in place, and are shared by all control processes on one store, which is why they are not
with the samples.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.metrics.alerts.states import Acknowledged, Active, State
from services.metrics.promql.labels import Labels, from_mapping
from services.storage.kv.base import Batch, Delete, Operation, Put, Store
from services.storage.kv.following import follow

PREFIX = "metrics/"
RULES = PREFIX + "rules/"
ALERTS = PREFIX + "alerts/"
SILENCES = PREFIX + "silences/"

# Operations of one transaction.
_BATCH = 100


def fingerprint(labels: Labels, rule: tuple[str, str, str]) -> str:
    """Return the name of an alert: the same for the same labels of the same rule."""
    packed = json.dumps([labels, rule], separators=(",", ":")).encode()
    return hashlib.blake2b(packed, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Kept:
    """An alert as it is kept: which rule has it, and to whom which state was delivered, and when (milliseconds)."""

    # File and group of the rule, and its id there.
    rule: tuple[str, str, str]
    active: Active
    sent: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.active.labels, self.rule)


def encode(kept: Kept) -> bytes:
    active = kept.active
    ack = active.acknowledged
    return json.dumps(
        {
            "rule": kept.rule,
            "labels": dict(active.labels),
            "annotations": dict(active.annotations),
            "state": active.state.value,
            "value": repr(active.value),
            "times": [active.active_ms, active.fired_ms, active.resolved_ms, active.kept_ms],
            "ack": [ack.author, ack.comment, ack.at_ms] if ack is not None else None,
            "sent": {name: list(sent) for name, sent in kept.sent.items()},
        },
        separators=(",", ":"),
    ).encode()


def decode(value: bytes) -> Kept:
    found = json.loads(value)
    active_ms, fired_ms, resolved_ms, kept_ms = found["times"]
    active = Active(
        from_mapping(found["labels"]),
        found["annotations"],
        State(found["state"]),
        float(found["value"]),
        active_ms,
        fired_ms,
        resolved_ms,
        kept_ms,
        Acknowledged(*found["ack"]) if found["ack"] else None,
    )
    file, group, name = found["rule"]
    return Kept((file, group, name), active, {key: (state, at) for key, (state, at) in found["sent"].items()})


@dataclass(frozen=True, slots=True)
class Silence:
    """Alerts that fit all matchers are not delivered from `starts_ms` to `ends_ms`."""

    id: str
    # As in PromQL: `alertname="InstanceDown"`.
    matchers: tuple[str, ...]
    starts_ms: int
    ends_ms: int
    author: str
    comment: str

    def encode(self) -> bytes:
        return json.dumps(
            [list(self.matchers), self.starts_ms, self.ends_ms, self.author, self.comment], separators=(",", ":")
        ).encode()

    @classmethod
    def decode(cls, name: str, value: bytes) -> Silence:
        matchers, starts, ends, author, comment = json.loads(value)
        return cls(name, tuple(matchers), starts, ends, author, comment)


class Records:
    """Use as `async with Records(store) as records`: the records in memory, as the store has them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._revision = 0
        self._task: asyncio.Task[None] | None = None
        self.values: dict[str, bytes] = {}
        # Replaced whenever a record has changed.
        self.changed = asyncio.Event()

    async def __aenter__(self) -> Records:
        await self._load()
        self._task = asyncio.create_task(follow(self._store, PREFIX, lambda: self._revision, self._apply, self._load))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def under(self, prefix: str) -> Mapping[str, bytes]:
        """Return the records under a prefix, by the rest of their keys."""
        return {key.removeprefix(prefix): value for key, value in self.values.items() if key.startswith(prefix)}

    async def write(self, changes: Mapping[str, bytes | None]) -> None:
        """Put records, or with None delete them; return when this copy has them.

        Raises:
            StorageError: they could not be written.

        """
        keys = [key for key, value in changes.items() if self.values.get(key) != value]
        for first in range(0, len(keys), _BATCH):
            operations: list[Operation] = []
            for key in keys[first : first + _BATCH]:
                value = changes[key]
                operations.append(Delete(key) if value is None else Put(key, value))
            reply = await self._store.txn((), operations)
            while self._revision < reply.header.revision:
                await self.changed.wait()

    async def _load(self) -> None:
        reply = await self._store.range(PREFIX, prefix=True)
        self.values = {kv.key: kv.value for kv in reply.kvs}
        self._revision = reply.header.revision
        self._wake()

    def _apply(self, batch: Batch) -> None:
        for event in batch.events:
            if event.kv is None:
                self.values.pop(event.key, None)
            else:
                self.values[event.key] = event.kv.value
        self._revision = batch.revision
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
