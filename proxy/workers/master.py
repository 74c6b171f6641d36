"""The process of `mesh edge --workers N`: it keeps the port, the workers and the numbers; it carries no call."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from mesh.errors import MeshError
from mesh.runtime import Process
from mesh.tls.identity import Tls
from proxy.admin.access_log import check_access_log
from proxy.admin.http import serve_admin
from proxy.engines.engine import INTERNAL, PUBLIC
from proxy.engines.factory import prove_engine, takes_sockets
from proxy.options import ACCESS_LOG_OFF, EdgeOptions
from proxy.workers.admin import master_app
from proxy.workers.numbers import Numbers, Source
from proxy.workers.place import Place
from proxy.workers.slot import Slot
from proxy.workers.sockets import Shared, keep, share
from proxy.workers.worker import Starter, Worker

# The arguments of `mesh` that run a worker, given the id of its instance and its place.
Command = Callable[[str, Place], Sequence[str]]


async def run_master(options: EdgeOptions, process: Process, command: Command) -> None:
    """Run an edge of `options.workers` processes until `process.stop`; all are drained at the end.

    Raises:
        StartError: an address cannot be listened on, or a worker not be started.

    """
    master = Master(options, command)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(master.prepared())
        app = master_app(master.numbers, master.slots, process.stop.is_set)
        master.addresses["admin"] = await stack.enter_async_context(serve_admin(app, options.admin))
        stack.push_async_callback(master.stop)
        await _unless(master.start(), process.stop)
        if process.stop.is_set():
            return
        process.ready({**master.addresses, "engine": master.engine, "workers": str(options.workers)})
        with _hangup(master.roll):
            await process.stop.wait()


class Master:
    """The workers of one edge, and what they share."""

    def __init__(self, options: EdgeOptions, command: Command) -> None:
        self.options = options
        self.numbers = Numbers()
        self.slots = [Slot(index, self._starter(index), _say) for index in range(options.workers)]
        self.addresses: dict[str, str] = {}
        # As the workers say it.
        self.engine = options.engine
        self._command = command
        self._id = options.instance_id or f"edge-{socket.gethostname()}-{os.getpid()}"
        self._shared: dict[str, Shared] = {}
        self._folder = Path()
        self._lifeline = -1
        self._serial = itertools.count()
        # Every process that lives, also those that begin or end.
        self._workers: set[Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rolling: asyncio.Task[None] | None = None
        self._again = False

    @contextlib.asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        """Hold what the workers share: ports, a folder for their admin sockets, the lifeline. Raises StartError."""
        options = self.options
        # One error of what is wrong, not one of each worker.
        prove_engine(options.engine)
        Tls({PUBLIC: options.public_tls, INTERNAL: options.internal_tls}, options.upstream_tls)
        if options.access_log != ACCESS_LOG_OFF:
            check_access_log(options.access_log)
        with contextlib.ExitStack() as stack:
            for listener, address in ((PUBLIC, options.public), (INTERNAL, options.internal)):
                if takes_sockets(options.engine):
                    shared = share(address, listener, options.workers)
                else:
                    shared = keep(address, listener)
                stack.callback(shared.close)
                self._shared[listener] = shared
                self.addresses[listener] = shared.address
            # Nobody else's: who reaches the sockets in it reads the metrics.
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-edge-")))
            self._lifeline, write_end = os.pipe()
            stack.callback(os.close, self._lifeline)
            stack.callback(os.close, write_end)
            yield

    async def start(self) -> None:
        """Start all workers. Raises StartError when one cannot start."""
        await asyncio.gather(*(slot.fill() for slot in self.slots))
        for slot in self.slots:
            self._own(slot.keep())
        self._own(self.numbers.keep_asking())

    def roll(self) -> None:
        """Replace all workers, one after the other; asked while that is under way, once more after it."""
        if self._rolling is not None and not self._rolling.done():
            self._again = True
            return
        self._rolling = self._own(self._roll())

    async def stop(self) -> None:
        """End all workers, their calls within the grace."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._stop(worker) for worker in tuple(self._workers)))

    async def _stop(self, worker: Worker) -> None:
        if not await worker.stop(self.options.grace):
            _say(f"{worker.name} did not stop within its grace and was killed")

    async def _roll(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            _say("replacing the workers, one after the other")
            try:
                for slot in self.slots:
                    await slot.replace(self.options.grace)
            except MeshError as error:
                _say(f"the workers are not replaced: {error}; those that run go on")
            else:
                _say("all workers are replaced")

    def _starter(self, index: int) -> Starter:
        async def start(replaces: bool) -> Worker:  # noqa: FBT001 - see Starter
            return await self._start(index, replaces=replaces)

        return start

    async def _start(self, index: int, *, replaces: bool) -> Worker:
        name = f"{index}-{next(self._serial)}"
        sockets = {listener: shared.sockets[index] for listener, shared in self._shared.items() if shared.handed_over}
        place = Place(
            index,
            self.addresses,
            admin=str(self._folder / f"{name}.sock"),
            last_metrics=str(self._folder / f"{name}.last"),
            fds={listener: one.fileno() for listener, one in sockets.items()},
            replaces=replaces,
        )
        source = Source(str(index), place.admin, place.last_metrics)
        arguments = self._command(f"{self._id}-w{index}", place)
        worker = await Worker.start(arguments, self._lifeline, tuple(place.fds.values()), source, self._ended)
        self._workers.add(worker)
        self.numbers.add(source)
        told = await worker.ready()
        self.engine = told.get("engine", self.engine)
        return worker

    def _ended(self, worker: Worker) -> None:
        self._workers.discard(worker)
        self.numbers.end(worker.source)

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _unless(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Do `work` until it is done or `stop` is set."""
    working, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, stopped):
            task.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)


@contextlib.contextmanager
def _hangup(callback: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, callback)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _say(sentence: str) -> None:
    print(f"mesh: {sentence}", file=sys.stderr, flush=True)  # noqa: T201 - a process says its news there
