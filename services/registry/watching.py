"""What watchers are sent. A watcher is a place in the history, not a buffer: it costs one message at most.

A revision is encoded once, and the same bytes go to everyone who watches the same service. Who falls out of the history
gets a snapshot that says so; who takes nothing of what it is sent for too long is cut off, and resumes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence

from mesh.api.registry import v1
from mesh.api.registry.v1 import HEALTH_DRAINING, Changes, Header, Instance, Progress, WatchResponse
from mesh.clock import Clock
from services.registry.live import Live
from services.registry.view import Revision
from services.registry.watchers import Watchers

# Seconds of silence after which a watch says that nothing changed, and how often that is looked at.
PROGRESS_INTERVAL = 10.0
LOOK_INTERVAL = 1.0
# Seconds that one message may take to be taken off our hands.
MAX_WRITE_SECONDS = 30.0
# Messages that are kept for others who want the same ones: watchers of all, and of some services.
MAX_ENCODED = 512
# Telling everyone costs about so many seconds for each watcher. The next time comes at least as long after the last
# one as that cost, at most MAX_GAP: bursts are told in batches, and leave the process half of its time.
WATCHER_SECONDS = 50e-6
MAX_GAP = 0.05
# Revisions that a watcher holds while it goes through them.
AT_ONCE = 64


class Message:
    """What a watcher is sent: its bytes, and whether it shall acknowledge them."""

    __slots__ = ("acknowledge", "data", "revision")

    def __init__(self, response: WatchResponse) -> None:
        self.data = response.SerializeToString()
        self.revision = response.header.revision
        self.acknowledge = response.acknowledge


class Watching:
    """Use as `async with Watching(live, cluster_id, ...) as watching`."""

    def __init__(self, live: Live, cluster_id: str, clock: Clock, interval: float = PROGRESS_INTERVAL) -> None:
        self._live = live
        self._cluster_id = cluster_id
        self._clock = clock
        self._interval = interval
        self.watchers = Watchers()
        self._encoded: dict[tuple[int, int, str], Message | None] = {}
        # Replaced whenever there may be something to say: one event for all, not a timer for each.
        self._wake = asyncio.Event()
        self._woken = 0.0
        self._roused: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Watching:
        self._live.observers.append(lambda _: self._rouse())
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._looking is not None
        self._looking.cancel()
        if self._roused is not None:
            self._roused.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._looking

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._clock.now()

    def same_cluster(self, cluster_id: str) -> bool:
        """Tell whether revisions that go with `cluster_id` are of this history."""
        return cluster_id == self._cluster_id

    async def watch(
        self, service: str, start_revision: int, cluster_id: str, *, batches: bool = False
    ) -> AsyncGenerator[Message, None]:
        """Yield a snapshot unless the changes from `start_revision` on are kept, then every change, without end.

        With `batches` the revisions that a watcher is behind come in one message.
        """
        now = self._clock.now
        seen: int | None = None
        resumes = start_revision > 0 and self.same_cluster(cluster_id)
        if resumes:
            seen = start_revision - 1
            if seen > self._live.view.revision:
                await self._live.catch_up()  # it comes from another control process, which was ahead of this one
        spoke = now()
        while True:
            wake, view = self._wake, self._live.view
            kept = None if seen is None else view.since(seen, AT_ONCE)
            if kept is None:
                compacted, resumes, seen = resumes, True, view.revision
                # Not held in a variable: that would last as long as the watch.
                yield self._snapshot(service, seen, compacted=compacted)
                spoke = now()
                continue
            # Not more at once: what a slow watcher is behind with must be forgotten when its time has come.
            end = view.revision if len(kept) < AT_ONCE else kept[-1].revision
            for some in (kept,) if batches and len(kept) > 1 else ([revision] for revision in kept):
                message = self._message(some, service)
                if message is not None:
                    yield message
                    spoke = now()
            seen = end
            if now() >= spoke + self._interval:
                yield Message(WatchResponse(header=self._header(seen), progress=Progress()))
                spoke = now()
            if len(kept) < AT_ONCE:
                await wake.wait()  # set already if anything has been told since

    def cut_slow(self) -> None:
        """End the watchers that have not taken a message for too long."""
        now = self._clock.now()
        for watcher in self.watchers:
            stuck = watcher.writing_since and now - watcher.writing_since > MAX_WRITE_SECONDS
            if stuck and not watcher.cut and watcher.task is not None:
                watcher.cut = True
                watcher.task.cancel()

    def _snapshot(self, service: str, revision: int, *, compacted: bool) -> Message:
        snapshot = self._live.view.snapshot(service, compacted=compacted)
        leaving = _any_drains(snapshot.instances)
        return Message(WatchResponse(header=self._header(revision), snapshot=snapshot, acknowledge=leaving))

    def _message(self, revisions: Sequence[Revision], service: str) -> Message | None:
        """Return the message about revisions, the same one for all who watch `service`; None if none touches it."""
        key = (revisions[0].revision, revisions[-1].revision, service)
        if key in self._encoded:
            return self._encoded[key]
        told = [(one.revision, changes) for one in revisions if (changes := one.of(service)) is not None]
        message = None
        if told:
            leaving = any(_any_drains(_instances(changes)) for _, changes in told)
            response = WatchResponse(header=self._header(told[-1][0]), acknowledge=leaving)
            if len(told) == 1:
                response.changes.CopyFrom(told[0][1])
            else:
                made = (v1.Revision(revision=revision, changes=changes) for revision, changes in told)
                response.batch.revisions.extend(made)
            message = Message(response)
        while len(self._encoded) >= MAX_ENCODED:
            del self._encoded[next(iter(self._encoded))]
        self._encoded[key] = message
        return message

    def _header(self, revision: int) -> Header:
        return Header(cluster_id=self._cluster_id, revision=revision)

    def _rouse(self) -> None:
        """Wake all watchers now, or soon if they have just been woken."""
        if self._roused is not None:
            return
        loop = asyncio.get_running_loop()
        gap = min(MAX_GAP, len(self.watchers) * WATCHER_SECONDS)
        if loop.time() >= self._woken + gap:
            self._wake_all()
        else:
            self._roused = loop.call_at(self._woken + gap, self._wake_all)

    def _wake_all(self) -> None:
        self._roused = None
        self._woken = asyncio.get_running_loop().time()
        self._wake.set()
        self._wake = asyncio.Event()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(min(LOOK_INTERVAL, self._interval))
            self.cut_slow()
            self._rouse()


def _instances(changes: Changes) -> Iterable[Instance]:
    return (change.instance for change in changes.changes if change.HasField("instance"))


def _any_drains(instances: Iterable[Instance]) -> bool:
    return any(instance.health == HEALTH_DRAINING for instance in instances)
