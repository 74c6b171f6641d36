"""How a part of the mesh runs as a process: signals, readiness, a lifeline to its supervisor, errors in one line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field

import uvloop

from mesh.errors import MeshError, UsageError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2


@dataclass
class Process:
    """What a part knows of the process it runs in."""

    # File descriptor that gets one JSON object of addresses when the part is ready; None when nobody waits for it.
    ready_fd: int | None = None
    # File descriptor of a pipe that its supervisor holds open: its end means that the supervisor is gone.
    lifeline_fd: int | None = None
    debug: bool = False
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def ready(self, addresses: Mapping[str, str]) -> None:
        """Tell the supervisor, if there is one, that the part serves at `addresses`."""
        if self.ready_fd is not None:
            with os.fdopen(self.ready_fd, "w") as pipe:
                pipe.write(json.dumps(addresses) + "\n")
            self.ready_fd = None


def run(main: Callable[[Process], Awaitable[None]], process: Process) -> int:
    """Run `main` on uvloop until it returns, and return the exit code.

    SIGTERM, SIGINT and the end of the lifeline set `process.stop`; a second signal ends the process at once. What
    goes wrong is one line on standard error, with `process.debug` the trace as well.
    """
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_supervised(main, process))
    except KeyboardInterrupt:
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the rim of the process: everything becomes a line and a code
        return report(error, debug=process.debug)
    return EXIT_OK


def report(error: Exception, *, debug: bool) -> int:
    """Print `error` as one line on standard error and return the exit code that it stands for."""
    if debug:
        traceback.print_exception(error)
    expected = isinstance(error, MeshError)
    text = " ".join(str(error).split()) or type(error).__name__
    hint = "" if expected or debug else " (unexpected; --debug shows the trace)"
    print(f"mesh: {text if expected else f'{type(error).__name__}: {text}'}{hint}", file=sys.stderr)  # noqa: T201
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


async def _supervised(main: Callable[[Process], Awaitable[None]], process: Process) -> None:
    with _signals(process.stop), _lifeline(process):
        await main(process)


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(EXIT_FAILED)  # asked twice: now, whatever is left
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _lifeline(process: Process) -> Iterator[None]:
    fd = process.lifeline_fd
    if fd is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def on_readable() -> None:
        if not os.read(fd, 1024):
            loop.remove_reader(fd)
            process.stop.set()

    loop.add_reader(fd, on_readable)
    try:
        yield
    finally:
        loop.remove_reader(fd)
