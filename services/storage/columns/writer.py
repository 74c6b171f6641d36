"""The one thread that writes: whatever has come while it was busy goes into the next transaction."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services.storage.columns.base import (
    Appended,
    BatchError,
    ColumnsError,
    FullError,
    Options,
    SequenceError,
    StorageError,
)
from services.storage.columns.driver import Driver
from services.storage.columns.rows import Batch

# How much of the queue's room is free again when the one that was refused may come back: told as seconds.
RETRY_AFTER = 1.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    answer: asyncio.Future[Any]
    # Either a batch, which shares a transaction with its neighbours, or something else to be done in its turn.
    batch: Batch | None = None
    call: Callable[[], Any] | None = None
    outcome: Any = None
    # Of batches, in the order in which they came.
    number: int = 0


@dataclass
class Counters:
    """What has been done since the start. Written by one thread each, read by anybody."""

    rows: int = 0
    batches: int = 0
    duplicates: int = 0
    # Malformed, or overlapping what was stored.
    refused: int = 0
    # Not taken for want of room.
    pushed_back: int = 0
    failures: int = 0
    commits: int = 0
    commit_seconds: float = 0.0
    last_row: int = field(default=0)


class Writer:
    """Owns the driver's writing side. `submit` and `call` belong to the event loop."""

    def __init__(self, driver: Driver, options: Options, committed: Callable[[], None]) -> None:
        """Make a writer that calls `committed`, in the event loop, after each transaction."""
        self._driver = driver
        self._options = options
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        # How many batches were submitted; and of a producer whose batch could not be written, how many when it failed:
        # those that were queued behind it must fail too, or it would be taken for stored when it is sent again.
        self._submitted = 0
        self._failed: dict[str, int] = {}
        self.queued_bytes = 0
        self.counters = Counters()
        self._thread = threading.Thread(target=self._run, name="columns-write", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch) -> asyncio.Future[Appended]:
        """Queue a batch; `FullError` when there is no room. One batch is always taken when none waits."""
        size = batch.size + 512  # of the bookkeeping: empty batches must not pile up either
        if self.queued_bytes and self.queued_bytes + size > self._options.queue_bytes:
            self.counters.pushed_back += 1
            raise FullError(
                f"{self.queued_bytes >> 20} MiB wait to be written, which is all that may: send it again later",
                RETRY_AFTER,
            )
        self.queued_bytes += size
        answer: asyncio.Future[Appended] = self._loop.create_future()
        # Counted until it is written, even if who asked no longer waits.
        answer.add_done_callback(_seen)
        self._submitted += 1
        self._put(_Job(answer, batch=batch, number=self._submitted))
        return answer

    def call(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """Have the thread call `function` after all that was queued before."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        answer.add_done_callback(_seen)
        self._put(_Job(answer, call=function))
        return answer

    async def close(self) -> None:
        """Write what is queued, and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _put(self, job: _Job) -> None:
        with self._wake:
            if self._closing:
                raise FullError("the store is closing")
            self._jobs.append(job)
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._closing:
                    self._wake.wait()
                if not self._jobs:
                    return
                group = self._take()
            if group[0].call is not None:
                _attempt(group[0], group[0].call)
            else:
                self._write(group)
            self._loop.call_soon_threadsafe(self._settle, group)

    def _take(self) -> list[_Job]:
        jobs, group, size = self._jobs, [self._jobs.popleft()], 0
        while jobs and group[0].batch and jobs[0].batch:
            size += jobs[0].batch.size
            if size + group[0].batch.size > self._options.group_bytes:
                break
            group.append(jobs.popleft())
        return group

    def _write(self, group: list[_Job]) -> None:
        group = [job for job in group if not self._behind_failed(job)]
        if not group:
            return
        batches = [job.batch for job in group if job.batch is not None]
        counters, began = self.counters, time.monotonic()
        try:
            outcomes = self._driver.write(batches)
        except BatchError as error:
            if len(group) > 1:  # one is malformed: the others shall not go with it
                for job in group:
                    self._write([job])
                return
            group[0].outcome = error
            counters.refused += 1
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread must go on
            counters.failures += 1
            if not isinstance(error, ColumnsError):
                _log.exception("batches could not be written, for a reason that nobody thought of")
            for job in group:
                job.outcome = error if isinstance(error, ColumnsError) else StorageError(f"a fault: {error!r}")
                if job.batch is not None and job.batch.producer:
                    self._failed[job.batch.producer] = self._submitted
            return
        counters.commits += 1
        counters.commit_seconds += time.monotonic() - began
        for job, batch, outcome in zip(group, batches, outcomes, strict=True):
            job.outcome = outcome
            self._count(batch, outcome)

    def _count(self, batch: Batch, outcome: Appended | SequenceError) -> None:
        counters = self.counters
        if isinstance(outcome, SequenceError):
            counters.refused += 1
            return
        counters.last_row = max(counters.last_row, outcome.last_row_id)
        if outcome.duplicate:
            counters.duplicates += 1
        else:
            counters.batches += 1
            counters.rows += batch.rows

    def _behind_failed(self, job: _Job) -> bool:
        """Refuse the batch if it was queued behind one of its producer that could not be written."""
        producer = job.batch.producer if job.batch is not None else ""
        if job.number > self._failed.get(producer, 0):
            self._failed.pop(producer, None)
            return False
        job.outcome = StorageError("a batch before it could not be written: send both again")
        return True

    def _settle(self, group: list[_Job]) -> None:
        for job in group:
            if job.batch is not None:
                self.queued_bytes -= job.batch.size + 512
            if job.answer.done():  # whoever waited was cancelled
                continue
            if isinstance(job.outcome, BaseException):
                job.answer.set_exception(job.outcome)
            else:
                job.answer.set_result(job.outcome)
        self._committed()


def _attempt(job: _Job, function: Callable[[], Any]) -> None:
    try:
        job.outcome = function()
    except Exception as error:  # noqa: BLE001 - who asked hears of it, and the thread goes on
        job.outcome = error


def _seen(answer: asyncio.Future[Any]) -> None:
    """Take note of an error that nobody waits for any more: the batch is stored or not, its sender asks again."""
    if not answer.cancelled():
        answer.exception()
