"""One process that carries calls, seen from the master."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from mesh.child import Child, ending
from mesh.errors import StartError
from proxy.workers.numbers import Source

# It starts in about a second; a replacement also waits for the registry.
START_SECONDS = 60.0
# What a worker may take beyond the grace of its calls before it is killed: less than a supervisor gives the master.
STOP_MARGIN = 1.5


class Worker:
    """A worker process, from its start to its end."""

    def __init__(self, name: str, child: Child, source: Source, on_end: Callable[[Worker], None]) -> None:
        self.name = name
        self.source = source
        self._child = child
        self._on_end = on_end
        # Its exit code, negative when a signal ended it.
        self.ending: asyncio.Task[int] = asyncio.create_task(self._watch())

    @classmethod
    async def start(
        cls,
        arguments: Sequence[str],
        lifeline: int,
        fds: Sequence[int],
        source: Source,
        on_end: Callable[[Worker], None],
    ) -> Worker:
        """Start the process; it is ready when `ready` says so. Raises StartError."""
        name = f"worker {source.worker}"
        try:
            child = await Child.start(arguments, lifeline, pass_fds=fds)
        except OSError as error:
            raise StartError(f"{name} cannot be run: {error}") from error
        return cls(name, child, source, on_end)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def ended(self) -> bool:
        return self._child.ended

    async def ready(self) -> dict[str, str]:
        """Wait until it serves, and return the addresses that it reports.

        Raises:
            StartError: it ended instead, or took too long.

        """
        try:
            addresses = await self._child.ready(START_SECONDS)
        except TimeoutError as error:
            self._child.kill()
            raise StartError(f"{self.name} was not ready within {START_SECONDS:g} s") from error
        if addresses is None:
            code = await asyncio.shield(self.ending)
            raise StartError(f"{self.name} cannot start: it {ending(code)}")
        return addresses

    async def stop(self, grace: float) -> bool:
        """End it: ask, give its calls their grace, then kill it; returns whether it ended by itself."""
        self._child.ask_to_stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.ending), grace + STOP_MARGIN)
            return True
        self._child.kill()
        await asyncio.shield(self.ending)
        return False

    async def _watch(self) -> int:
        code = await self._child.wait()
        self._on_end(self)
        return code


Starter = Callable[[bool], Awaitable[Worker]]
"""Starts a worker for a slot and waits until it is ready; told whether it replaces one that goes on until then."""
