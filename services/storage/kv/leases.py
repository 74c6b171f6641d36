"""Counting leases down. Pure: every method is told the time."""

from __future__ import annotations

import heapq
from collections.abc import Iterable


class Countdown:
    """When each lease runs out."""

    def __init__(self) -> None:
        self._ttl: dict[int, float] = {}
        self._deadline: dict[int, float] = {}
        # May hold deadlines that have been put off since; looked up when they come to the top.
        self._heap: list[tuple[float, int]] = []
        # Over for good, whatever its holder says; and of these, those handed out.
        self._over: set[int] = set()
        self._due: set[int] = set()

    def __len__(self) -> int:
        return len(self._ttl)

    def start(self, lease_id: int, ttl: float, now: float) -> None:
        """Count `lease_id` down from `ttl`."""
        self._ttl[lease_id] = ttl
        self._schedule(lease_id, now + ttl)

    def renew(self, lease_id: int, now: float) -> float | None:
        """Start over and return the ttl; None when the lease is unknown or has run out."""
        ttl = self._ttl.get(lease_id)
        # Its time may be over without anyone having looked yet.
        if ttl is None or lease_id in self._over or self._deadline[lease_id] <= now:
            return None
        self._deadline[lease_id] = now + ttl
        return ttl

    def remaining(self, lease_id: int, now: float) -> float | None:
        deadline = self._deadline.get(lease_id)
        if deadline is None:
            return None
        return 0.0 if lease_id in self._over else max(0.0, deadline - now)

    def end(self, lease_id: int) -> None:
        """Forget a lease."""
        self._ttl.pop(lease_id, None)
        self._deadline.pop(lease_id, None)
        self._over.discard(lease_id)
        self._due.discard(lease_id)
        if len(self._heap) > 1000 + 2 * len(self._deadline):
            self._rebuild()  # else short-lived leases with long ttls would pile up

    def due(self, now: float) -> list[int]:
        """Return the leases that have run out since the last call: `end` each, or `retry` it."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            _, lease_id = heapq.heappop(self._heap)
            deadline = self._deadline.get(lease_id)
            if deadline is None or lease_id in self._due:
                continue
            if deadline > now:
                heapq.heappush(self._heap, (deadline, lease_id))
                continue
            self._over.add(lease_id)
            self._due.add(lease_id)
            found.append(lease_id)
        return found

    def retry(self, lease_ids: Iterable[int], now: float, delay: float = 1.0) -> None:
        """Hand out again, after `delay`, what was due and could not be ended."""
        for lease_id in lease_ids:
            if lease_id in self._due:
                self._due.discard(lease_id)
                self._schedule(lease_id, now + delay)

    def put_off(self, seconds: float) -> None:
        """Move every deadline: for a time in which nobody could have renewed."""
        self._deadline = {lease_id: deadline + seconds for lease_id, deadline in self._deadline.items()}
        self._rebuild()

    def next_deadline(self) -> float | None:
        """Return a time before which nothing runs out; None without leases."""
        return self._heap[0][0] if self._heap else None

    def _schedule(self, lease_id: int, deadline: float) -> None:
        self._deadline[lease_id] = deadline
        heapq.heappush(self._heap, (deadline, lease_id))

    def _rebuild(self) -> None:
        self._heap = [(deadline, lease_id) for lease_id, deadline in self._deadline.items()]
        heapq.heapify(self._heap)
