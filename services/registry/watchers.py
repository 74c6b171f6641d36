"""Who watches, and what each has put into force: what drains wait for. Pure, but that waiting is an event."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from mesh.api.registry.v1 import (
    WAITING_CAUSE_AWAY,
    WAITING_CAUSE_CANNOT,
    WAITING_CAUSE_PENDING,
    Waiting,
    WaitingCause,
)

# Seconds that a watcher which cannot acknowledge is given to act on what it was sent.
CANNOT_SECONDS = 1.0
# Names in a reply, and waits that are remembered for control processes that ask again.
MAX_NAMED = 100
MAX_WAITS = 1000


@dataclass(eq=False, slots=True)
class Watcher:
    """One stream."""

    # What it calls itself, and where it is.
    name: str
    peer: str
    # Empty is all.
    service: str = ""
    can_acknowledge: bool = False
    # Everything up to here is in force there.
    acknowledged: int = 0
    # Since when it takes nothing of what it is sent (monotonic seconds); 0 is not so.
    writing_since: float = 0.0
    # What serves it, and whether that was ended because it is too slow.
    task: asyncio.Task[None] | None = None
    cut: bool = False

    @property
    def shown(self) -> str:
        """Return what people know it by."""
        return self.name or self.peer

    def follows(self, service: str) -> bool:
        return self.service in ("", service)


@dataclass(eq=False, slots=True)
class Wait:
    """A drain that waits for all who watched when it began."""

    service: str
    revision: int
    began: float
    pending: set[Watcher] = field(default_factory=set)
    # By name, those whose stream ended before they acknowledged; they may come back.
    away: set[str] = field(default_factory=set)
    acknowledged: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def waiting(self, now: float) -> Iterator[Waiting]:
        """Yield those that have not acknowledged. Those that cannot are left out once they have had their time."""
        for watcher in self.pending:
            if watcher.can_acknowledge:
                yield _waiting(watcher.shown, WAITING_CAUSE_PENDING)
            elif now < self.began + CANNOT_SECONDS:
                yield _waiting(watcher.shown, WAITING_CAUSE_CANNOT)
        for name in sorted(self.away):
            yield _waiting(name, WAITING_CAUSE_AWAY)

    def silent(self, now: float) -> list[Waiting]:
        """Return all that have not acknowledged, those that cannot included."""
        cannot = [_waiting(one.shown, WAITING_CAUSE_CANNOT) for one in self.pending if not one.can_acknowledge]
        return [one for one in self.waiting(now) if one.cause != WAITING_CAUSE_CANNOT] + cannot

    def _note(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def heard(self, watcher: Watcher) -> None:
        if watcher.acknowledged >= self.revision and (watcher in self.pending or watcher.name in self.away):
            self.pending.discard(watcher)
            self.away.discard(watcher.name)
            self.acknowledged += 1
            self._note()

    def left(self, watcher: Watcher) -> None:
        if watcher in self.pending:
            self.pending.discard(watcher)
            if watcher.can_acknowledge and watcher.name:
                self.away.add(watcher.name)
            self._note()


class Watchers:
    """All watchers of this process, and all waits for them."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        # The same wait for whoever asks for the same revision: control processes ask each other again and again.
        self._waits: dict[tuple[str, int], Wait] = {}

    def __len__(self) -> int:
        return len(self._watchers)

    def __iter__(self) -> Iterator[Watcher]:
        return iter(self._watchers)

    def join(self, watcher: Watcher) -> None:
        """Note a new stream; what it resumes behind is in force there."""
        self._watchers.add(watcher)
        self._heard(watcher)

    def leave(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)
        for wait in self._waits.values():
            wait.left(watcher)

    def acknowledge(self, watcher: Watcher, revision: int) -> None:
        if revision > watcher.acknowledged:
            watcher.acknowledged = revision
            self._heard(watcher)

    def wait(self, service: str, revision: int, now: float) -> Wait:
        """Return the wait for everyone who watches `service` to have put `revision` into force."""
        key = (service, revision)
        known = self._waits.get(key)
        if known is None:
            while len(self._waits) >= MAX_WAITS:
                del self._waits[next(iter(self._waits))]  # the oldest
            known = self._waits[key] = Wait(service, revision, now)
            for watcher in self._watchers:
                if watcher.follows(service):
                    known.pending.add(watcher)
            for watcher in list(known.pending):
                known.heard(watcher)
        return known

    def _heard(self, watcher: Watcher) -> None:
        for wait in self._waits.values():
            if watcher.follows(wait.service):
                wait.heard(watcher)


def _waiting(watcher: str, cause: WaitingCause.ValueType) -> Waiting:
    return Waiting(watcher=watcher, cause=cause)
