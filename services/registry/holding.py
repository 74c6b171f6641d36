"""Holds back instances that change too often: counts what the view tells, and writes the holds.

A hold is an opinion bound to a lease that is as long as the hold, so it ends by itself, whatever becomes of who wrote
it. Every control process counts the same changes; the first one to write is the one that did.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from mesh.api.registry.v1 import (
    HEALTH_NOT_SERVING,
    HEALTH_SERVING,
    HEALTH_STARTING,
    OPINION_SOURCE_CHECK,
    OPINION_SOURCE_DAMPING,
    Health,
    Opinion,
)
from mesh.clock import Clock
from services.registry import records
from services.registry.damping import DampingOptions, FlapDamping
from services.registry.live import Live
from services.registry.opinions import badness
from services.registry.records import Key
from services.registry.roster import Held
from services.registry.view import Move
from services.storage.kv.base import Grant, KvError, Put, Store, exists, unchanged

_LEFT = frozenset({HEALTH_STARTING, HEALTH_NOT_SERVING})
# Instances that are remembered after they left, to know them again.
_MAX_REMEMBERED = 20_000
# Holds that end so close to each other are for the same change.
_SAME_MS = 2000


class Holding:
    """Flap damping on a store."""

    def __init__(self, store: Store, live: Live, options: DampingOptions, clock: Clock) -> None:
        self._store = store
        self._live = live
        self._clock = clock
        self._damping = FlapDamping(options, clock)
        self._due: dict[Key, float] = {}
        # Instances that were here and left.
        self._gone: dict[Key, None] = {}
        live.observers.append(self._moved)

    async def tend(self) -> None:
        """Write the holds that are due, and end those whose time is over."""
        due, self._due = self._due, {}
        for key, seconds in due.items():
            await self._hold(key, seconds)
        wall_ms = self._clock.wall_ns() // 1_000_000
        for _, opinion, lease_id in list(self._live.view.roster.opinions(OPINION_SOURCE_DAMPING)):
            if wall_ms >= opinion.until_ms:
                # Its lease does the same; but leases begin anew when the store is opened.
                await self._end(lease_id)

    def _moved(self, moves: Sequence[Move] | None) -> None:
        for move in moves or ():
            if self._is_change(move) and (seconds := self._damping.changed(move.key)):
                self._due[move.key] = max(seconds, self._due.get(move.key, 0.0))

    def _is_change(self, move: Move) -> bool:
        """Tell what counts: it stopped serving, without being about to leave, or it is there anew."""
        key, before, after = move.key, move.before, move.after
        if after is None:
            if before is not None:
                self._gone[key] = None
                if len(self._gone) > _MAX_REMEMBERED:
                    del self._gone[next(iter(self._gone))]
            return False
        if not after.live:
            return False
        if before is None:
            known = key in self._gone
            self._gone.pop(key, None)
            return known
        if before.own.create_revision != after.own.create_revision:
            return True
        return _word(before) == HEALTH_SERVING and _word(after) in _LEFT

    async def _hold(self, key: Key, seconds: float) -> None:
        """Write the hold, unless nobody of the service would be left: then a bad instance is better than none."""
        view = self._live.view
        held = view.instances.get(key)
        if held is None or not any(
            other.instance_id != key[1] and other.health == HEALTH_SERVING for other in view.page(key[0], None)
        ):
            return
        now_ms = self._clock.wall_ns() // 1_000_000
        opinion = Opinion(
            source=OPINION_SOURCE_DAMPING,
            health=HEALTH_NOT_SERVING,
            reason=f"it changed too often of late and is held back for {seconds:.0f} s",
            since_ms=now_ms,
            until_ms=now_ms + round(seconds * 1000),
        )
        name = records.opinion_key(OPINION_SOURCE_DAMPING, key)
        known = view.roster.opinion(OPINION_SOURCE_DAMPING, key)
        if known is not None and known[0].until_ms >= opinion.until_ms - _SAME_MS:
            return  # another control process has counted the same change
        lease_id = secrets.randbelow(2**63 - 1) + 1
        compares = (exists(records.instance_key(key)), unchanged(name, known[1] if known else 0))
        try:
            reply = await self._store.txn(
                compares, (Put(name, opinion.SerializeToString(), lease_id),), grant=Grant(lease_id, seconds)
            )
        except KvError:
            return  # it goes on as it is; the next change counts again
        if reply.succeeded and known is not None:
            await self._end(known[2])

    async def _end(self, lease_id: int) -> None:
        try:
            await self._store.revoke(lease_id)
        except KvError:
            return


def _word(held: Held) -> Health.ValueType:
    """Return what the instance and its check say of it, whatever else is."""
    checks = [one.health for one in held.instance.opinions if one.source == OPINION_SOURCE_CHECK]
    return max((held.own.health, *checks), key=badness)
