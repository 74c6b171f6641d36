"""Outlier detection: sets aside, for a while, endpoints that do worse than their siblings.

A breaker judges an endpoint by itself and may stop all of them; this compares, and leaves most of them in.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Hashable, Iterable

from mesh.resilience.policy import OutlierOptions


class Host:
    """What is known of one endpoint."""

    __slots__ = ("calls", "ejected_until", "ejections", "failures", "multiplier", "seconds", "streak", "timed")

    def __init__(self) -> None:
        # Failures one after the other, up to now.
        self.streak = 0
        # Since the last comparison: calls, failures, calls that were timed and the sum of their seconds.
        self.calls = 0
        self.failures = 0
        self.timed = 0
        self.seconds = 0.0
        # It gets no calls before this; 0 when it was not set aside.
        self.ejected_until = 0.0
        # How often it was set aside; and of so many base times the last ejection was, less those forgotten.
        self.ejections = 0
        self.multiplier = 0

    def forget(self) -> None:
        """Begin to count anew."""
        self.calls = self.failures = self.timed = 0
        self.seconds = 0.0


class OutlierDetector:
    """The endpoints of one service, compared. Never sets more than its share of them aside at a time.

    It has no timer: it looks at the clock when calls end, and an ejection ends by the clock alone.
    """

    def __init__(self, options: OutlierOptions, now: float) -> None:
        self.options = options
        self.hosts: dict[Hashable, Host] = {}
        self._compare_at = now + options.interval_seconds
        self._seen = now

    def host(self, key: Hashable) -> Host:
        """Return what is known of an endpoint, which belongs to the service from now on."""
        return self.hosts.setdefault(key, Host())

    def follow(self, keys: Collection[Hashable]) -> None:
        """Forget all other endpoints, and let back in who is too many for those that are left: the earliest first."""
        self.hosts = {key: host for key, host in self.hosts.items() if key in keys}
        # As of the last call: who was out then may be back by now, which does no harm.
        ejected = sorted(self._ejected(self._seen), key=lambda host: host.ejected_until)
        for host in ejected[: max(0, len(ejected) - self._most())]:
            host.ejected_until = 0.0

    def record(self, host: Host, now: float, *, failed: bool, seconds: float | None = None) -> None:
        """Note how an attempt ended, and after how long the answer began, if it did.

        What was under way when the endpoint was set aside says nothing new.
        """
        self._seen = now
        if host.ejected_until > now:
            return
        host.calls += 1
        if failed:
            host.failures += 1
            host.streak += 1
            # Again after so many more: where there was no room the first time, there may be some then.
            most = self.options.consecutive_failures
            if most and host.streak % most == 0:
                self._eject((host,), now)
        else:
            host.streak = 0
            if seconds is not None:
                host.timed += 1
                host.seconds += seconds
        if now >= self._compare_at:
            self._compare(now)

    def _compare(self, now: float) -> None:
        self._compare_at = now + self.options.interval_seconds
        present = [host for host in self.hosts.values() if host.ejected_until <= now]
        for host in present:
            host.multiplier = max(0, host.multiplier - 1)
        self._eject(self._failing(present), now)
        self._eject(self._slow(present), now)
        for host in self.hosts.values():
            host.forget()

    def _failing(self, present: Iterable[Host]) -> list[Host]:
        """Return the endpoints whose success rate is an outlier, the worst first."""
        options = self.options
        rates = {host: 1 - host.failures / host.calls for host in present if host.calls >= options.success_rate_calls}
        if not options.success_rate_factor or len(rates) < options.success_rate_hosts:
            return []
        mean, spread = statistics.fmean(rates.values()), statistics.pstdev(rates.values())
        lowest = mean - options.success_rate_factor * spread
        return sorted((host for host, rate in rates.items() if rate < lowest), key=rates.__getitem__)

    def _slow(self, present: Iterable[Host]) -> list[Host]:
        """Return the endpoints whose latency is an outlier, the worst first."""
        options = self.options
        means = {host: host.seconds / host.timed for host in present if host.timed >= options.success_rate_calls}
        if options.latency_factor is None or len(means) < options.success_rate_hosts:
            return []
        most = options.latency_factor * statistics.median(means.values())
        return sorted((host for host, mean in means.items() if mean > most), key=means.__getitem__, reverse=True)

    def _eject(self, hosts: Iterable[Host], now: float) -> None:
        options = self.options
        room = self._most() - len(self._ejected(now))
        for host in [one for one in hosts if one.ejected_until <= now][: max(0, room)]:
            host.multiplier += 1
            host.ejections += 1
            lasts = min(host.multiplier * options.base_ejection_seconds, options.max_ejection_seconds)
            host.ejected_until = now + lasts
            host.streak = 0
            host.forget()

    def _ejected(self, now: float) -> list[Host]:
        return [host for host in self.hosts.values() if host.ejected_until > now]

    def _most(self) -> int:
        return int(self.options.max_ejection_share * len(self.hosts) + 1e-9)
