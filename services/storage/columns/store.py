"""A store on a driver: one thread that writes, a few that read, and bounded queues before both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Self

import pyarrow as pa

from mesh.clock import Clock, SystemClock
from services.storage.columns.base import Appended, ColumnStore, FullError, Options, Retained, Scope, StorageError
from services.storage.columns.driver import Driver, Reader
from services.storage.columns.rows import check
from services.storage.columns.writer import Writer

# How long a query that was interrupted may go on before it is interrupted again: it may not have begun by then.
INTERRUPT_AGAIN = 0.1
# How long `close` waits for queries to end.
CLOSE_SECONDS = 5.0


class ThreadedStore(ColumnStore):
    """The store of any driver."""

    def __init__(self, driver: Driver, options: Options, clock: Clock | None = None) -> None:
        self._driver = driver
        self._options = options
        self._clock = clock or SystemClock()
        self._writer: Writer | None = None
        self._pool = ThreadPoolExecutor(options.readers, "columns-read")
        # Interrupting may take a while over a network, and must not wait for a reader to be free.
        self._interrupter = ThreadPoolExecutor(1, "columns-interrupt")
        self._slots = asyncio.Semaphore(options.readers)
        self._idle: list[Reader] = []
        self._waiting = 0
        self._queries = 0
        # Interrupted queries that have not ended.
        self._ending: set[asyncio.Task[None]] = set()
        # Replaced after every transaction, so that whoever waits for rows wakes once.
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Open it; `StartError` when it cannot be used."""
        opening = asyncio.get_running_loop().run_in_executor(self._pool, self._open)
        try:
            last_row = await opening
        except BaseException:
            self._pool.shutdown(wait=False)
            self._interrupter.shutdown(wait=False)
            raise
        self._writer = Writer(self._driver, self._options, self._notify)
        self._writer.counters.last_row = last_row
        return self

    async def append(
        self,
        batches: Mapping[str, pa.Table],
        *,
        producer: str = "",
        seq: int = 0,
        after: int | None = None,
        json_known: bool = False,
    ) -> Appended:
        batch = check(self._driver.schemas, batches, producer, seq, after, json_known=json_known)
        return await self._writing.submit(batch)

    async def durable_seq(self, producer: str) -> int | None:
        found: int | None = await self._writing.call(lambda: self._driver.mark(producer))
        return found

    async def query(
        self, sql: str, params: Sequence[object] = (), scopes: Mapping[str, Scope] | None = None
    ) -> pa.Table:
        if self._waiting >= self._options.waiting:
            raise FullError(f"{self._waiting} queries wait already: ask again later")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        if self._writer is None:
            self._slots.release()
            raise StorageError("the store is closed")
        self._queries += 1
        reader: Reader | None = self._idle.pop() if self._idle else None
        connected: list[Reader] = [reader] if reader is not None else []

        def run() -> pa.Table:
            if not connected:
                connected.append(self._driver.reader())
            return connected[0].query(sql, params, scopes or {})

        running = asyncio.get_running_loop().run_in_executor(self._pool, run)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if not running.done():
                ending = asyncio.create_task(self._end(running, connected))
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)
            raise
        finally:
            if running.done():
                self._free(connected)

    async def retain(self) -> Retained:
        now_ns = self._clock.wall_ns()
        done: Retained = await self._writing.call(lambda: self._driver.retain(now_ns))
        return done

    async def committed(self, after_row: int, timeout: float) -> int:  # noqa: ASYNC109 - see the interface
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._writing.counters.last_row <= after_row:
                    await self._changed.wait()
        return self._writing.counters.last_row

    @property
    def exclusive(self) -> bool:
        return self._driver.exclusive

    @property
    def stats(self) -> Mapping[str, float]:
        writer = self._writing
        return {
            **asdict(writer.counters),
            **self._driver.stats,
            "queued_bytes": writer.queued_bytes,
            "queries": self._queries,
            "queries_waiting": self._waiting,
        }

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._notify()
        await writer.close()
        held = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while held < self._options.readers:
                    await self._slots.acquire()
                    held += 1
        for reader in self._idle:
            reader.close()
        self._pool.shutdown(wait=False)
        self._interrupter.shutdown(wait=False)
        await asyncio.to_thread(self._driver.close)

    @property
    def _writing(self) -> Writer:
        if self._writer is None:
            raise StorageError("the store is closed")
        return self._writer

    def _open(self) -> int:
        self._driver.open()
        return self._driver.last_row()

    async def _end(self, running: asyncio.Future[pa.Table], connected: list[Reader]) -> None:
        """Interrupt a query until it has ended; only then may its reader serve the next one."""
        loop = asyncio.get_running_loop()
        while not running.done():
            if connected:
                with contextlib.suppress(Exception):  # it is tried again
                    await loop.run_in_executor(self._interrupter, connected[0].interrupt)
            await asyncio.wait((running,), timeout=INTERRUPT_AGAIN)
        running.exception()
        self._free(connected)

    def _free(self, connected: list[Reader]) -> None:
        self._idle += connected
        self._slots.release()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
