"""The edge's part of Config: the application `mesh.edge`, watched, taken into force without a lost call, reported."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.clock import Clock
from mesh.config.model import Outcome, Subject, View
from mesh.config.snapshot import Snapshot
from mesh.config.watcher import ConfigWatcher
from mesh.edge import EDGE_SERVICE
from mesh.edge.policy.document import Document
from mesh.edge.schema import APPLICATION
from mesh.errors import MeshError
from mesh.options import snapshot_key
from proxy.call.limits import Limits
from proxy.engines.options import Protection
from proxy.policy.document import read

# Of how many releases it is known when they came into force.
REMEMBERED = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Own:
    """What the edge's own options say of what a release can change."""

    limits: Limits
    protection: Protection


Apply = Callable[[Document, Limits, Protection], Sequence[str]]


class Configuration:
    """Follows the releases that are for this edge; calls `apply` for each one that makes sense."""

    def __init__(
        self,
        target: str,
        instance_id: str,
        environment: str,
        labels: Mapping[str, str],
        own: Own,
        apply: Apply,
        clock: Clock,
    ) -> None:
        self._own = own
        self._now = clock.now
        self._apply = apply
        self._subject = Subject(APPLICATION, EDGE_SERVICE, instance_id, environment, labels)
        self._target = target
        self._known = asyncio.Event()
        # The releases that were taken into force, the newest first, with the time of each.
        self._history: tuple[tuple[float, int], ...] = ()
        self.document = Document()
        self._watcher = self._watch(None)

    def keep(self, folder: Path, name: str) -> None:
        """Keep the last release that made sense in a file of `folder`, for a start while the control plane is away."""
        self._watcher = self._watch(_EdgeSnapshot(folder / f"{APPLICATION}{name}.json", snapshot_key()))

    @property
    def environment(self) -> str:
        return self._subject.environment

    @property
    def release(self) -> int:
        """The number of the release in force; 0 is what the edge does without any."""
        return self._watcher.current.release

    def release_at(self, moment: float) -> int:
        """Return the release under which a call began at this time of the clock; 0 is none. For any thread."""
        return next((release for since, release in self._history if since <= moment), 0)

    @property
    def checksum(self) -> str:
        return self._watcher.current.checksum

    @property
    def rejected(self) -> int:
        """The number of the release that came last where that is not in force; 0 where it is."""
        return self._watcher.received.release if self._watcher.outcome is Outcome.REJECTED else 0

    @property
    def error(self) -> str:
        """Why it is not."""
        return self._watcher.error

    @property
    def connected(self) -> bool:
        return self._watcher.connected

    @property
    def is_known(self) -> bool:
        """Whether it is clear what this edge has to do, be it what it does without a configuration."""
        return self._known.is_set()

    async def known(self) -> None:
        """Wait until `is_known`."""
        await self._known.wait()

    async def run(self) -> None:
        """Follow until cancelled, whatever the network does. A name that Config refuses ends it, with a warning."""
        try:
            await self._watcher.run()
        except MeshError as error:
            _log.warning("this edge gets no configuration: %s", error)
            self._known.set()

    def _watch(self, snapshot: Snapshot | None) -> ConfigWatcher:
        return ConfigWatcher(self._target, self._subject, self._take, snapshot=snapshot, on_event=self._tell)

    def _take(self, view: View, _before: View) -> str | None:
        """Take a release into force, all of it or nothing; what this raises is reported as why it was rejected.

        Returns what of it this edge's engine cannot do: that is no reason to go without the rest.
        """
        try:
            document = read(view.content, self._own.limits)
            unheeded = self._put(document)
        except Exception as error:
            _log.warning("release %d of %s is rejected: %s", view.release, APPLICATION, error)
            raise
        finally:
            self._known.set()
        if not self._watcher.connected:
            _log.warning("the control plane is away: going on with release %d of %s", view.release, APPLICATION)
        self.document = document
        self._history = ((self._now(), view.release), *self._history[: REMEMBERED - 1])
        if not unheeded:
            return None
        named = ", ".join(f"edge.{name}" for name in unheeded)
        told = f"{named}: not in force, as the engine of this edge takes it from its own options alone, at its start"
        _log.warning("release %d of %s: %s", view.release, APPLICATION, told)
        return told

    def _put(self, document: Document) -> Sequence[str]:
        try:
            return self._force(document)
        except Exception:
            # A defect of ours; what was in force before is in force again.
            self._force(self.document)
            raise

    def _force(self, document: Document) -> Sequence[str]:
        own = self._own
        limits = dataclasses.replace(own.limits, **document.limits)
        return self._apply(document, limits, dataclasses.replace(own.protection, **document.protection))

    def _tell(self, sentence: str) -> None:
        if self._watcher.absent:
            self._known.set()
            _log.warning("%s: this edge does what its own options say", sentence)
        else:
            _log.info("%s", sentence)


class _EdgeSnapshot(Snapshot):
    """The file of an edge: whatever its process is called, it goes on with what the one before did."""

    def save(self, subject: Subject, view: View) -> None:
        super().save(dataclasses.replace(subject, instance=""), view)

    def load(self, subject: Subject) -> View | None:
        return super().load(dataclasses.replace(subject, instance=""))
