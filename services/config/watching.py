"""Watches: each instance is told what it shall run, first and whenever that changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from services.config.effective import Effective, Resolver, assigned
from services.config.errors import DeniedError
from services.config.fleet import Fleet
from services.config.layers import Target
from services.config.view import View

# Seconds of silence after which a watch says that nothing changed.
PROGRESS_INTERVAL = 10.0


@dataclass(frozen=True, slots=True)
class Update:
    """What the watcher shall run from now on; no `effective` says that nothing changed."""

    revision: int
    effective: Effective | None = None
    # With its secrets in clear if the watcher may have them; None when it has this content already.
    content: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a watcher has already."""

    revision: int = 0
    checksum: str = ""


class Watches:
    """The watches of this process."""

    def __init__(
        self, view: View, resolver: Resolver, fleet: Fleet, *, progress_interval: float = PROGRESS_INTERVAL
    ) -> None:
        self._view = view
        self._resolver = resolver
        self._fleet = fleet
        self._progress_interval = progress_interval
        # Who watches, and what it says of itself: by application, service and instance.
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._targets: dict[tuple[str, str, str], Target] = {}

    def watchers(self, name: str) -> dict[tuple[str, str], Target]:
        """Return who watches the application, by service and instance."""
        return {key[1:]: target for key, target in self._targets.items() if key[0] == name}

    async def watch(self, name: str, target: Target, lease_id: int, seen: Seen) -> AsyncGenerator[Update, None]:
        """Yield what the target shall run, without end.

        Raises:
            DeniedError: the lease is not, or no longer, that instance's.
            PreconditionError: what it shall run does not satisfy the schema, or a secret cannot be decrypted.

        """
        with self._counted(name, target):
            # Whoever comes from another control process may be ahead of this one.
            await self._view.reached(seen.revision)
            told: tuple[int, str] | None = None
            checksum = seen.checksum
            while True:
                moved = self._view.moved(name)
                known = self._view.apps.get(name)
                number = assigned(known.value, target) if known is not None else 0
                if told is None or told[0] != number:
                    effective = await self._resolver.effective(name, number, target)
                    content = None
                    if effective.checksum != checksum:
                        content = await self.content(name, effective, target, lease_id)
                    told, checksum = (number, effective.checksum), effective.checksum
                    yield Update(known.revision if known is not None else self._view.revision, effective, content)
                    continue  # it may have moved meanwhile
                if not await _happens(moved, self._progress_interval):
                    yield Update(known.revision if known is not None else self._view.revision)

    async def content(self, name: str, effective: Effective, target: Target, lease_id: int) -> str:
        """Return the content for the holder of that lease: with secrets in clear, or masked without one."""
        if not lease_id:
            return effective.content
        if not self._fleet.holds(lease_id, target.service, target.instance):
            raise DeniedError(
                f"lease_id: this is not the lease of '{target.service}' instance '{target.instance}': register, and "
                "ask with the lease that it has now, or ask without one, for secrets masked"
            )
        return await self._resolver.revealed(name, effective)

    @contextlib.contextmanager
    def _counted(self, name: str, target: Target) -> Iterator[None]:
        if not target.instance:
            yield
            return
        key = (name, target.service, target.instance)
        self._counts[key] += 1
        self._targets[key] = target
        try:
            yield
        finally:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key], self._targets[key]


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
