"""Accounted drain: an instance becomes DRAINING, and may exit when all who watch it have put that into force.

Each control process knows its own watchers, so the one that is asked asks the others. Who cannot be
waited for is named.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import grpc

from mesh.api.registry.v1 import (
    HEALTH_DRAINING,
    OPINION_SOURCE_DRAIN,
    WAITING_CAUSE_CONTROL,
    AwaitAcknowledgedRequest,
    AwaitAcknowledgedResponse,
    DrainResponse,
    Header,
    Instance,
    InstanceName,
    Opinion,
    RegistryStub,
    Waiting,
)
from mesh.clock import Clock
from mesh.discovery.channel import instance_channel
from services.registry import peers, records
from services.registry.errors import UnknownInstanceError
from services.registry.live import Live
from services.registry.records import Key
from services.registry.watchers import MAX_NAMED, Wait, Watchers
from services.storage.kv.base import Delete, Put, StorageError, Store, exists

# Seconds between two words of progress, and what another control process gets beyond what it is asked to wait.
PROGRESS_SECONDS = 1.0
PEER_MARGIN = 2.0
DRAINED = "somebody drains it"


class Instances(Protocol):
    """What drains need of the registry."""

    @property
    def header(self) -> Header: ...

    async def update(self, lease_id: int, change: Callable[[Instance], object]) -> tuple[Header, Instance]: ...


class Drains:
    """The drains of one control process, and what others ask it for theirs."""

    def __init__(
        self, instances: Instances, store: Store, live: Live, watchers: Watchers, clock: Clock, me: str
    ) -> None:
        self._instances = instances
        self._store = store
        self._live = live
        self._watchers = watchers
        self._clock = clock
        self._me = me

    async def by_lease(self, lease_id: int, reason: str) -> tuple[Key, int]:
        """Let an instance say that it is DRAINING; return it and the revision since when.

        Raises:
            LeaseLostError: the lease keeps no instance.

        """

        def leave(instance: Instance) -> None:
            instance.health, instance.health_reason = HEALTH_DRAINING, reason

        _, instance = await self._instances.update(lease_id, leave)
        return (instance.service, instance.instance_id), instance.mod_revision

    async def by_name(self, key: Key, reason: str) -> tuple[Key, int]:
        """Drain an instance whatever it says itself; return it and the revision since when.

        Raises:
            UnknownInstanceError: there is no such instance, or several have that id.

        """
        key = await self._find(key)
        known = self._live.view.roster.opinion(OPINION_SOURCE_DRAIN, key)
        if known is not None:
            return key, known[1]
        held = self._live.view.instances[key]
        opinion = Opinion(
            source=OPINION_SOURCE_DRAIN,
            health=HEALTH_DRAINING,
            reason=reason or DRAINED,
            since_ms=self._clock.wall_ns() // 1_000_000,
        )
        home = records.instance_key(key) if held.live else records.kept_key(key)
        write = Put(records.opinion_key(OPINION_SOURCE_DRAIN, key), opinion.SerializeToString(), held.lease_id)
        reply = await self._store.txn((exists(home),), (write,))
        if not reply.succeeded:
            raise UnknownInstanceError("/".join(key), "it has just left")
        await self._live.caught_up(reply.header.revision)
        return key, reply.header.revision

    async def cancel(self, key: Key) -> tuple[Key, int]:
        """End the drain of an instance, if there is one; raises like `by_name`."""
        key = await self._find(key)
        reply = await self._store.txn((), (Delete(records.opinion_key(OPINION_SOURCE_DRAIN, key)),))
        await self._live.caught_up(reply.header.revision)
        return key, reply.header.revision

    async def progress(self, key: Key, revision: int, seconds: float) -> AsyncGenerator[DrainResponse, None]:
        """Yield how far it is, at once, at every step and each second; the last one when nobody is waited for."""
        now = self._clock.now
        wait = self._watchers.wait(key[0], revision, now())
        until = now() + seconds
        others = {
            peer.instance_id: asyncio.create_task(self._ask(peer, key[0], revision, until))
            for peer in peers.others(self._live.view, self._me)
        }
        heard: dict[str, AwaitAcknowledgedResponse] = {}
        try:
            while True:
                changed = wait.changed
                for name, task in others.items():
                    if task.done():
                        heard[name] = task.result()
                pending = [task for task in others.values() if not task.done()]
                waited = bool(list(wait.waiting(now()))) or bool(pending)
                done = not waited or now() >= until
                yield self._response(key, revision, wait, heard, others.keys() - heard.keys(), done=done)
                if done:
                    return
                changing = asyncio.ensure_future(changed.wait())
                try:
                    left = max(0.0, min(PROGRESS_SECONDS, until - now()))
                    await asyncio.wait((changing, *pending), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changing.cancel()
        finally:
            for task in others.values():
                task.cancel()
            await asyncio.gather(*others.values(), return_exceptions=True)

    async def acknowledged(self, service: str, revision: int, seconds: float) -> AwaitAcknowledgedResponse:
        """Wait for the watchers of this process, at most so many seconds, and tell who has acknowledged."""
        now = self._clock.now
        until = now() + seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._live.caught_up(revision)
        wait = self._watchers.wait(service, revision, now())
        while list(wait.waiting(now())) and (left := until - now()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, PROGRESS_SECONDS / 4)):
                    await wait.changed.wait()
        silent = wait.silent(now())
        return AwaitAcknowledgedResponse(
            header=self._instances.header,
            acknowledged=wait.acknowledged,
            waiting=silent[:MAX_NAMED],
            waiting_count=len(silent),
        )

    async def _ask(self, peer: Instance, service: str, revision: int, until: float) -> AwaitAcknowledgedResponse:
        """Ask another control process until its watchers have acknowledged, or time is up."""
        answer = AwaitAcknowledgedResponse(
            waiting=[Waiting(watcher=peer.instance_id, cause=WAITING_CAUSE_CONTROL)], waiting_count=1
        )
        async with instance_channel(peer.endpoints[0], peer.metadata) as channel:
            stub = RegistryStub(channel)
            while (left := until - self._clock.now()) > 0:
                seconds = min(left, PROGRESS_SECONDS)
                request = AwaitAcknowledgedRequest(service=service, revision=revision, timeout_seconds=seconds)
                try:
                    answer = await stub.AwaitAcknowledged(request, timeout=seconds + PEER_MARGIN)
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                        break  # an older one, which has no watchers that acknowledge
                    await asyncio.sleep(min(left, PROGRESS_SECONDS / 4))
                    continue
                if not answer.waiting_count:
                    break
        return answer

    def _response(
        self,
        key: Key,
        revision: int,
        wait: Wait,
        heard: dict[str, AwaitAcknowledgedResponse],
        asked: set[str],
        *,
        done: bool,
    ) -> DrainResponse:
        now = self._clock.now()
        waiting = wait.silent(now) if done else list(wait.waiting(now))
        count = len(waiting) + len(asked)
        waiting += [Waiting(watcher=name, cause=WAITING_CAUSE_CONTROL) for name in sorted(asked)]
        for answer in heard.values():
            waiting += answer.waiting
            count += answer.waiting_count
        return DrainResponse(
            header=self._instances.header,
            instance=InstanceName(service=key[0], instance_id=key[1]),
            drain_revision=revision,
            acknowledged=wait.acknowledged + sum(answer.acknowledged for answer in heard.values()),
            waiting=waiting[:MAX_NAMED],
            waiting_count=count,
            done=done,
        )

    async def _find(self, key: Key) -> Key:
        for look_again in (True, False):
            instances = self._live.view.instances
            found = [key] if key in instances else []
            if not key[0]:
                found = [known for known in instances if known[1] == key[1]]
            if len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(f"{service}/{instance_id}" for service, instance_id in found[:3])
                raise UnknownInstanceError(key[1], f"several services have it, name one: {names}")
            if look_again:
                with contextlib.suppress(StorageError):
                    await self._live.catch_up()  # another control process may have it already
        raise UnknownInstanceError("/".join(part for part in key if part))
