"""Checks the instances that asked for it: one task for each, a bounded number of checks at a time.

Of several control processes exactly one checks an instance, the one that ranks highest for it among those that are
registered as SERVING (`policy.is_owner`): no lock has to be kept, and it is the same one whoever the instance talks to.
While processes come and go two may do it, or none for a moment; a verdict is written only when it changes, so that does
no harm. What is open without a question, Watch, is a means to hear at once; a check goes out at each interval all the
same, since a process that hangs keeps its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence

from mesh.api.registry.v1 import (
    HEALTH_NOT_SERVING,
    HEALTH_STARTING,
    OPINION_SOURCE_CHECK,
    Health,
    Instance,
    Opinion,
)
from mesh.clock import Clock
from services.registry import peers, records
from services.registry.checks.policy import Verdict, first_pause, is_owner, pause
from services.registry.checks.prober import NoWatchError, Prober, Watch
from services.registry.live import Live
from services.registry.records import Key
from services.registry.roster import Held
from services.registry.view import Move
from services.storage.kv.base import KvError, Put, Store, exists

# Checks under way at a time, and connections that are kept open to hear of changes at once; beyond, instances are
# connected to anew for each check.
MAX_CHECKS = 64
MAX_WATCHES = 500


class Checker:
    """Use as `async with Checker(...)`."""

    def __init__(
        self, store: Store, live: Live, clock: Clock, me: str, dice: Callable[[], float] = random.random
    ) -> None:
        """Be the control process `me`; an empty one is alone and checks everything."""
        self._store = store
        self._live = live
        self._clock = clock
        self._me = me
        self._dice = dice
        self._gate = asyncio.Semaphore(MAX_CHECKS)
        self._watches = 0
        # By instance: what is checked, as it was asked for, and the task that does it.
        self._running: dict[Key, tuple[Instance, asyncio.Task[None]]] = {}
        self._others: tuple[str, ...] = ()
        live.observers.append(self._moved)

    async def __aenter__(self) -> Checker:
        self._moved(None)
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [task for _, task in self._running.values()]
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _moved(self, moves: Sequence[Move] | None) -> None:
        """Follow the view: whom to check, and who else does."""
        anew = moves is None
        for move in moves or ():
            anew = anew or move.key[0] == peers.SERVICE
            self._look_at(move.key)
        if anew:
            self._others = tuple(peer.instance_id for peer in peers.others(self._live.view, self._me))
            checked = [key for key, held in self._live.view.instances.items() if held.own.HasField("check")]
            for key in {*checked, *self._running}:
                self._look_at(key)

    def _look_at(self, key: Key) -> None:
        """Begin or end the checks of an instance."""
        held = self._live.view.instances.get(key)
        wanted = held.own if held is not None and self._is_mine(held) else None
        known = self._running.get(key)
        if known is not None and (wanted is None or not _same(known[0], wanted)):
            del self._running[key]
            known[1].cancel()
            known = None
        if known is None and wanted is not None:
            task = asyncio.create_task(self._follow(key, wanted))
            self._running[key] = (wanted, task)

    def _is_mine(self, held: Held) -> bool:
        return held.own.HasField("check") and (
            not self._me or is_owner(self._me, self._others, (held.own.service, held.own.instance_id))
        )

    async def _follow(self, key: Key, instance: Instance) -> None:
        """Check one instance until cancelled."""
        check = instance.check
        verdict = Verdict(check, self._known(key))
        await asyncio.sleep(first_pause(check, self._dice, verdict.health))
        while True:
            if self._watches < MAX_WATCHES:
                self._watches += 1
                try:
                    await self._connected(key, instance, verdict)
                finally:
                    self._watches -= 1
            else:
                async with self._gate, Prober(instance.endpoints[0], check) as prober:
                    answer = await prober.check()
                await self._settle(key, verdict, changed=verdict.count(answer))
                await asyncio.sleep(pause(check, self._dice))

    async def _connected(self, key: Key, instance: Instance, verdict: Verdict) -> None:
        """Check over one connection, and listen to what the instance says in between, until cancelled."""
        check = instance.check
        async with Prober(instance.endpoints[0], check) as prober:
            watch: Watch | None = None
            hears = True
            try:
                while True:
                    async with self._gate:
                        answer = await prober.check()
                    await self._settle(key, verdict, changed=verdict.count(answer))
                    if watch is None and answer.spoke and hears:
                        watch = prober.watch()
                    seconds = pause(check, self._dice)
                    if watch is not None:
                        try:
                            await self._listen(key, verdict, watch, seconds)
                        except NoWatchError:
                            # It may have no Watch at all: not again before it was away.
                            await watch.close()
                            watch, hears = None, False
                            await asyncio.sleep(seconds)
                    else:
                        hears = hears or not answer.spoke
                        await asyncio.sleep(seconds)
            finally:
                if watch is not None:
                    await watch.close()

    async def _listen(self, key: Key, verdict: Verdict, watch: Watch, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0:
            answer = await watch.next(left)
            if answer is not None:
                await self._settle(key, verdict, changed=verdict.told(answer))

    async def _settle(self, key: Key, verdict: Verdict, *, changed: bool) -> None:
        """Write a new verdict; one that cannot be written is written after the next check."""
        if not changed and verdict.health in (HEALTH_STARTING, self._known(key)):
            return
        held = self._live.view.instances.get(key)
        if held is None:
            return
        now_ms = self._clock.wall_ns() // 1_000_000
        opinion = Opinion(
            source=OPINION_SOURCE_CHECK,
            health=verdict.health,
            reason=f"health check: {verdict.reason}" if verdict.health == HEALTH_NOT_SERVING else "",
            since_ms=now_ms,
        )
        home = records.instance_key(key) if held.live else records.kept_key(key)
        write = Put(records.opinion_key(OPINION_SOURCE_CHECK, key), opinion.SerializeToString(), held.lease_id)
        with contextlib.suppress(KvError):
            reply = await self._store.txn((exists(home),), (write,))
            await self._live.caught_up(reply.header.revision)

    def _known(self, key: Key) -> Health.ValueType:
        """Return the verdict that is written down."""
        known = self._live.view.roster.opinion(OPINION_SOURCE_CHECK, key)
        return known[0].health if known is not None else HEALTH_STARTING


def _same(one: Instance, other: Instance) -> bool:
    """Tell whether the same process is to be checked in the same way."""
    return (
        one.create_revision == other.create_revision
        and one.check == other.check
        and one.endpoints[0] == other.endpoints[0]
    )
