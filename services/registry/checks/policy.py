"""What single answers to health checks come to, who asks, and when. Pure, but for the dice that are passed in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mesh.api.registry.v1 import HEALTH_NOT_SERVING, HEALTH_SERVING, HEALTH_STARTING, Health, HealthCheck
from services.registry.records import Key

# An interval is stretched or shortened by up to this share, so that checks do not fall into step.
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, or why there was none."""

    good: bool
    reason: str = ""
    # Whether its health service answered at all.
    spoke: bool = True


class Verdict:
    """Turns answers into a health that does not follow each single one.

    It begins as STARTING: the first verdict takes as many answers as any other one. What the instance says at once
    about itself (`told`) needs no repetition: it is not a lost packet.
    """

    def __init__(self, check: HealthCheck, health: Health.ValueType = HEALTH_STARTING) -> None:
        """Go on from `health`, which another control process may have come to."""
        self._check = check
        self.health = health
        self.reason = ""
        self._good = self._bad = 0

    def count(self, answer: Answer) -> bool:
        """Take an answer; tell whether the health has changed by it."""
        if answer.good:
            self._good, self._bad = self._good + 1, 0
            return self._good >= self._check.healthy_threshold and self._become(HEALTH_SERVING, "")
        self._good, self._bad = 0, self._bad + 1
        if self._bad < self._check.unhealthy_threshold:
            return False
        return self._become(HEALTH_NOT_SERVING, answer.reason)

    def told(self, answer: Answer) -> bool:
        """Take what the instance told by itself; tell whether the health has changed by it."""
        self._good = self._bad = 0
        return self._become(HEALTH_SERVING if answer.good else HEALTH_NOT_SERVING, answer.reason)

    def _become(self, health: Health.ValueType, reason: str) -> bool:
        if health == self.health:
            return False
        self.health, self.reason = health, reason
        return True


def pause(check: HealthCheck, dice: Callable[[], float]) -> float:
    """Return the seconds until the next check."""
    return check.interval_seconds * (1 - JITTER + 2 * JITTER * dice())


def first_pause(check: HealthCheck, dice: Callable[[], float], known: Health.ValueType) -> float:
    """Return the seconds until the first check: none for who waits for it, else anywhere within an interval."""
    return 0.0 if known == HEALTH_STARTING else check.interval_seconds * dice()


def is_owner(me: str, others: Iterable[str], key: Key) -> bool:
    """Tell whether the control process `me`, of those that live, is the one that checks an instance.

    It is the one whose hash with the instance is the highest: each comes to the same answer by itself, the work is
    spread evenly, and when one dies only what it did moves.
    """
    mine = _rank(me, key)
    return all(mine >= _rank(other, key) for other in others)


def _rank(process: str, key: Key) -> bytes:
    return hashlib.blake2b("\0".join((process, *key)).encode(), digest_size=8).digest()
