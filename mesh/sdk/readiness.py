"""Whether an instance wants calls: its own gate, and a check that it may have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

# How often a check is asked before its first yes, and after it.
FIRST_SECONDS = 0.5
THEN_SECONDS = 5.0

Check = Callable[[], Awaitable[bool]]

_log = logging.getLogger("mesh.server")


class Readiness:
    """The gate of one instance, `m.ready`, open at first: what it says goes to the registry and to health probes."""

    def __init__(self) -> None:
        self._open = True
        self._checked = True
        self._why = ""
        self._changed: Callable[[], None] = lambda: None
        self._event = asyncio.Event()
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether calls are wanted."""
        return self._open and self._checked

    @property
    def why(self) -> str:
        """Why they are not, in a few words."""
        return "" if self.is_set else self._why

    def set(self) -> None:
        """Want calls."""
        self._open = True
        self._tell()

    def clear(self, why: str = "") -> None:
        """Want none until `set`. Calls that come all the same are answered."""
        self._open = False
        self._why = why
        self._tell()

    async def wait(self) -> None:
        """Wait until calls are wanted."""
        await self._event.wait()

    def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the answer changes."""
        self._changed = changed

    def doubt(self) -> None:
        """Want no calls before a check has said yes."""
        self._checked, self._why = False, "its check has not said yes yet"
        self._tell()

    async def keep_asking(self, check: Check) -> None:
        """Ask `check` until cancelled: what it returns counts, and what it raises is a no."""
        while True:
            try:
                good, why = await check(), "its check says no"
            except Exception as error:  # noqa: BLE001 - anybody's code; the next time may do
                good, why = False, f"its check failed: {type(error).__name__}: {error}"[:200]
            if not good and why != self._why:
                _log.warning("not ready: %s", why)
            self._checked = good
            self._why = self._why if good else why
            self._tell()
            await asyncio.sleep(THEN_SECONDS if good else FIRST_SECONDS)

    def _tell(self) -> None:
        if self.is_set:
            self._event.set()
        else:
            self._event.clear()
        self._changed()
