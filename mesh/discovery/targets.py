"""The control processes that a client may talk to, one at a time. Pure, but for the dice."""

from __future__ import annotations

import random
from collections.abc import Callable

from mesh.discovery.backoff import Backoff


class Targets:
    """Goes from one to the next at once when one fails, and waits only when all have failed in a row."""

    def __init__(self, text: str, dice: Callable[[], float] = random.random) -> None:
        """Take "HOST:PORT[,HOST:PORT...]". The dice choose the first one, so that a fleet spreads over all."""
        self._all = tuple(text.split(","))
        self._index = int(dice() * len(self._all))
        self._failed = 0
        self._backoff = Backoff(dice)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def current(self) -> str:
        return self._all[self._index]

    def move_on(self) -> float:
        """Make the next one the current one, and return the seconds to wait before talking to it."""
        self._index = (self._index + 1) % len(self._all)
        self._failed += 1
        return self._backoff.next() if self._failed % len(self._all) == 0 else 0.0

    def reset(self) -> None:
        """Note that the current one serves."""
        self._failed = 0
        self._backoff.reset()
