"""Whether a snapshot is to be believed at once. Pure.

A registry that lost its storage comes back with a new cluster id, or a revision behind the one that is known, and knows
nobody: whoever believed it would wipe out callers that work. Its instances register again within a third of their time
to live. So those that it does not know yet are held for a while, beside what it does know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mesh.clock import Clock
from mesh.discovery.model import Directory, Instance, Service

# Four default ttls: by then everyone who lives has registered again.
HOLD_SECONDS = 60.0
# A snapshot with fewer than this share of the instances is suspicious; with more it is taken as it is.
SUSPICIOUS_SHARE = 0.5
# It is enough when so many are there again.
RETURNED_SHARE = 0.85


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What is held on to beside a snapshot, and until when."""

    instances: Mapping[tuple[str, str], Instance]
    services: Mapping[str, Service]
    before: int
    until: float


class SnapshotGuard:
    """Holds on to instances that a suspicious snapshot does not know."""

    def __init__(self, clock: Clock, hold_seconds: float = HOLD_SECONDS) -> None:
        self._clock = clock
        self._hold_seconds = hold_seconds
        self._suspicion: Suspicion | None = None

    @property
    def held(self) -> int:
        """How many instances are in force that the registry does not know."""
        return len(self._suspicion.instances) if self._suspicion is not None else 0

    def snapshot(self, before: Directory, given: Directory) -> Directory:
        """Return what to put into force when the snapshot `given` comes while `before` is in force."""
        began_anew = given.cluster_id != before.cluster_id or given.revision < before.revision
        smaller = len(given.instances) < SUSPICIOUS_SHARE * len(before.instances)
        if before.cluster_id and began_anew and smaller:
            until = self._clock.now() + self._hold_seconds
            self._suspicion = Suspicion(before.instances, before.services, len(before.instances), until)
        elif began_anew or not smaller:
            self._suspicion = None
        return self.changed(given)

    def changed(self, given: Directory) -> Directory:
        """Return what to put into force while the registry says `given`."""
        suspicion = self._suspicion
        if suspicion is None:
            return given
        returned = len(given.instances) >= RETURNED_SHARE * suspicion.before
        if returned or self._clock.now() >= suspicion.until:
            self._suspicion = None
            return given
        # One that came back, by its name or at its address, takes its own place.
        taken = {(one.service, address) for one in given.instances.values() for address in one.endpoints}
        kept = {
            key: one
            for key, one in suspicion.instances.items()
            if key not in given.instances and not any((one.service, address) in taken for address in one.endpoints)
        }
        self._suspicion = replace(suspicion, instances=kept)
        services = {**suspicion.services, **given.services}
        return replace(given, instances={**kept, **given.instances}, services=services)

    def seconds_left(self) -> float | None:
        """Return when to ask again, with `changed`; None while all is as the registry says."""
        if self._suspicion is None:
            return None
        return max(0.0, self._suspicion.until - self._clock.now())
