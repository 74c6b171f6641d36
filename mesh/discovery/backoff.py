"""How long to wait before the next try. Pure, but for the dice."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST = 0.05
# A fleet is to be back within two seconds of its control plane; an address where nobody listens costs next to nothing.
LONGEST = 1.0


class Backoff:
    """Doubles with each failure in a row; jitter keeps a fleet from coming back in step."""

    def __init__(self, dice: Callable[[], float] = random.random) -> None:
        """Use `dice` for numbers from 0 up to 1."""
        self._dice = dice
        self._ceiling = FIRST

    def next(self) -> float:
        """Return the seconds to wait now: from half to all of a ceiling that doubles from 50 ms to 1 s."""
        ceiling = self._ceiling
        self._ceiling = min(LONGEST, ceiling * 2)
        return ceiling * (1 + self._dice()) / 2

    def reset(self) -> None:
        """Begin anew, after a success."""
        self._ceiling = FIRST
