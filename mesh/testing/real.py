"""The real control services, as a process of their own."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Self

from mesh.child import Child
from mesh.errors import StartError

START_SECONDS = 60.0


class RealControl:
    """`mesh control` on a free port: `async with RealControl(folder) as control:`, or the fixture `mesh_control`."""

    def __init__(self, folder: Path) -> None:
        """Have it keep its data, and its log, in `folder`: a new one there goes on with what it has."""
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._child: Child | None = None
        # Where it is reached, "HOST:PORT": what MESH_CONTROL is, and the option `control` of `mesh.join`.
        self.address = ""

    async def __aenter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        # It ends when this process does, however that ends.
        lifeline, ours = os.pipe()
        self._stack.callback(os.close, ours)
        with (self._folder / "control.log").open("ab") as log:
            try:
                arguments = ("control", "--listen", self.address or "127.0.0.1:0", "--data-dir", str(self._folder))
                self._child = await Child.start(arguments, lifeline, output=log.fileno())
            finally:
                os.close(lifeline)
        addresses = await self._child.ready(START_SECONDS)
        if addresses is None:
            code = await self._child.wait()
            self._stack.close()
            raise StartError(f"mesh control ended with {code}: {(self._folder / 'control.log').read_text().strip()}")
        self.address = addresses["control"]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Have it end as on SIGTERM; `start` has it back at the same address."""
        await self._end(kill=False)

    async def kill(self) -> None:
        """Kill it; `start` has it back at the same address."""
        await self._end(kill=True)

    async def start(self) -> None:
        """Start it again."""
        await self.__aenter__()

    async def _end(self, *, kill: bool) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill() if kill else child.ask_to_stop()
            await child.wait()
        self._stack.close()
