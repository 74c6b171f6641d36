"""A part of the mesh as a process, seen from the one that started it: the other end of `mesh.runtime`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# As shells say it: 128 + the number of the signal that ended a command.
_SIGNALLED = 128


class Child:
    """One process that runs `mesh` with some arguments.

    It gets two pipes: by one it says that it is ready, with its addresses; the end of the other, the lifeline, tells
    it that whoever started it is gone.
    """

    def __init__(self, process: asyncio.subprocess.Process, ready_pipe: int) -> None:
        self._process = process
        self._ready_pipe = ready_pipe

    @classmethod
    async def start(
        cls,
        arguments: Sequence[str],
        lifeline: int,
        *,
        output: int | None = None,
        pass_fds: Iterable[int] = (),
        folder: Path | None = None,
        module: str = "mesh.cli",
    ) -> Child:
        """Start `mesh` with `arguments`; `output` takes what it prints, None is where this process prints.

        Another `module` must take the options that follow the first argument as the parts of `mesh` do.

        Raises:
            OSError: there is no process to be had.

        """
        command, *rest = arguments
        read_end, write_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, command),
                *("--ready-fd", str(write_end), "--lifeline-fd", str(lifeline)),
                *rest,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(write_end, lifeline, *pass_fds),
                # A group of its own: the terminal's Ctrl-C goes to whoever supervises alone, which stops the parts in
                # order, and whatever a dead part leaves behind can be ended with it.
                start_new_session=True,
                cwd=folder,
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        return cls(process, read_end)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    async def ready(self, seconds: float) -> dict[str, str] | None:
        """Return the addresses that it reports; None when it ends without. To be asked once.

        Raises:
            TimeoutError: it took longer than `seconds`.

        """
        reader = asyncio.StreamReader()
        pipe = os.fdopen(self._ready_pipe, "rb")
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            line = await asyncio.wait_for(reader.readline(), seconds)
        finally:
            transport.close()
        if not line:
            return None
        addresses: dict[str, str] = json.loads(line)
        return addresses

    async def wait(self) -> int:
        """Return its exit code when it has ended, negative when a signal ended it."""
        return await self._process.wait()

    def ask_to_stop(self) -> None:
        """Tell it to finish what it has and end."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """End it now, and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def ending(code: int) -> str:
    """Say in words how a process ended; a signal's number is in the code as asyncio or as shells have it."""
    number = -code if code < 0 else code - _SIGNALLED
    if number > 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(number).name}"
    return f"exited with {code}"
