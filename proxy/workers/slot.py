"""One worker's place, kept filled: by the next process when one dies, without a gap when one is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mesh.child import ending
from mesh.errors import StartError
from proxy.workers.worker import Starter, Worker

# A restart waits 0.1 s, then twice as long each time, up to 5 s; a worker that ran for 10 s begins anew.
FIRST_DELAY, LAST_DELAY, STEADY_AFTER = 0.1, 5.0, 10.0


class Slot:
    """Keeps one worker running."""

    def __init__(self, index: int, start: Starter, say: Callable[[str], None]) -> None:
        self.index = index
        # Who serves it, or did last.
        self.worker: Worker | None = None
        self.restarts = 0
        self._start = start
        self._say = say
        # Only one worker is started at a time: for one that died, or as a replacement.
        self._starting = asyncio.Lock()
        self._ended = asyncio.Event()

    @property
    def serving(self) -> Worker | None:
        """The worker that serves it now, if one does."""
        return None if self.worker is None or self.worker.ended else self.worker

    async def fill(self) -> None:
        """Start the first worker. Raises StartError."""
        self._take(await self._start(False))  # noqa: FBT003 - the type has no names

    async def keep(self) -> None:
        """Start the next worker whenever one has died, until cancelled."""
        loop = asyncio.get_running_loop()
        delay, began = FIRST_DELAY, loop.time()
        while True:
            await self._ended.wait()
            self._ended.clear()
            worker = self.worker
            if worker is None or not worker.ended:
                continue
            if loop.time() - began > STEADY_AFTER:
                delay = FIRST_DELAY
            self._say(f"{worker.name} {ending(worker.ending.result())}; it starts again in {delay:g} s")
            while True:
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_DELAY)
                began = loop.time()
                try:
                    async with self._starting:
                        self._take(await self._start(False))  # noqa: FBT003 - likewise
                    break
                except StartError as error:
                    self._say(f"{error}; it starts again in {delay:g} s")
            self.restarts += 1

    async def replace(self, grace: float) -> None:
        """Put a new worker in, then let the old one finish its calls.

        A worker that died a moment ago is not replaced: `keep` starts a new one anyway.

        Raises:
            StartError: the new one cannot start; the old one goes on.

        """
        async with self._starting:
            old = self.serving
            if old is None:
                return
            self._take(await self._start(True))  # noqa: FBT003 - likewise
        if not await old.stop(grace):
            self._say(f"the old {old.name} did not stop within its grace and was killed")

    def _take(self, worker: Worker) -> None:
        self.worker = worker
        # Called also when it has ended already.
        worker.ending.add_done_callback(lambda _: self._ended.set())
