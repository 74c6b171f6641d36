"""One part of the mesh as a process that is kept running."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mesh.child import Child, ending
from mesh.cli.supervisor.folder import Log
from mesh.errors import MeshError, StartError, UsageError
from mesh.runtime import EXIT_FAILED, EXIT_USAGE

# A restart waits 0.1 s, then twice as long each time, up to 5 s; a part that ran for 10 s begins anew.
FIRST_DELAY, LAST_DELAY, STEADY_AFTER = 0.1, 5.0, 10.0
# A part that is killed before it was ever ready gets so many tries; one that says why it ends gets one.
START_TRIES = 3
START_TIMEOUT = 60.0
# What a part may take beyond the grace of its calls before it is killed.
STOP_MARGIN = 3.0


@dataclass(frozen=True)
class Spec:
    """What a part is."""

    name: str
    # The arguments of `mesh` that run it, given the addresses it shall serve at.
    command: Callable[[Mapping[str, str]], Sequence[str]]
    # The addresses asked for; a restart asks for those that the part got the first time.
    addresses: Mapping[str, str] = field(default_factory=dict)
    # Where it runs; None is where the supervisor does.
    folder: Path | None = None
    # What is run, if that is not `mesh`: it takes --ready-fd, --lifeline-fd and --debug as well.
    module: str = "mesh.cli"


class Part:
    """Runs one part until it is told to stop, again whenever it dies."""

    def __init__(self, spec: Spec, log: Log, lifeline: int, say: Callable[[str], None], *, debug: bool = False) -> None:
        self.name = spec.name
        self.addresses = dict(spec.addresses)
        self.log = log
        # Set when the part is ready for the first time; fails when it cannot start.
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._spec = spec
        self._lifeline = lifeline
        self._say = say
        self._debug = debug
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The process that runs it now."""
        return self._child.pid if self._child else None

    async def run(self) -> None:
        """Keep the part running until `stop`; returns early when it cannot be started at all."""
        try:
            await self._keep_running()
        finally:
            self._ended.set()

    async def stop(self, grace: float) -> None:
        """End the part: ask, wait for its grace, then kill it and all that it started."""
        self._stopping.set()
        if self._child is not None:
            self._child.ask_to_stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), grace + STOP_MARGIN)
            return
        self._say(f"{self.name} did not stop within {grace + STOP_MARGIN:g} s and was killed")
        if self._child is not None:
            self._child.kill()
        await self._ended.wait()

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        delay, tries = FIRST_DELAY, 0
        while not self._stopping.is_set():
            began = loop.time()
            try:
                code = await self._run_once()
                ended, failed = f"{self.name} {ending(code)}", self._start_error(code)
            except OSError as error:
                # No process, no memory, no place for its log.
                code = EXIT_FAILED
                ended = f"{self.name} cannot be run: {error}"
                failed = StartError(ended)
            if self._stopping.is_set():
                return
            tries += 1
            if not self.started.done() and (code >= 0 or tries == START_TRIES):
                self.started.set_exception(failed)
                return
            if loop.time() - began > STEADY_AFTER:
                delay = FIRST_DELAY
            why = f" ({self.log.error()})" if code > 0 and self.log.error() else ""
            self._say(f"{ended}{why}; it starts again in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(2 * delay, LAST_DELAY)

    async def _run_once(self) -> int:
        """Run one process from its start to its end; returns its exit code, negative when a signal ended it."""
        command, *rest = self._spec.command(self.addresses)
        log = self.log.open()
        try:
            child = self._child = await Child.start(
                (command, *(("--debug",) if self._debug else ()), *rest),
                self._lifeline,
                output=log,
                folder=self._spec.folder,
                module=self._spec.module,
            )
        finally:
            os.close(log)
        if self._stopping.is_set():
            child.ask_to_stop()
        await self._await_ready(child)
        code = await child.wait()
        child.kill()
        return code

    async def _await_ready(self, child: Child) -> None:
        """Take the addresses that the process reports; returns without them when it ends or takes too long."""
        try:
            addresses = await child.ready(START_TIMEOUT)
        except TimeoutError:
            self._say(f"{self.name} was not ready within {START_TIMEOUT:g} s")
            child.kill()
            return
        if addresses is not None:
            self.addresses.update(addresses)
            if not self.started.done():
                self.started.set_result(None)

    def _start_error(self, code: int) -> MeshError:
        error = self.log.error()
        if code == EXIT_USAGE and error:
            return UsageError(error)
        why = error or f"it {ending(code)}"
        return StartError(f"{self.name} cannot start: {why} (log: {self.log.path})")
