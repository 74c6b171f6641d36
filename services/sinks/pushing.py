"""One stream of pushes: batches on their way to the disk, a few at a time, answered in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa
from google.protobuf.message import DecodeError, Message

from services.sinks.errors import InvalidError
from services.sinks.messages import Columns, Fields, inner
from services.sinks.serving import Undecodable, undecodable
from services.storage.columns.base import Appended, BatchError

R = TypeVar("R")

# Batches of one stream that wait to be on disk: more are not read, which holds their sender up.
PIPELINE = 16


@dataclass(frozen=True, slots=True)
class Push:
    """A PushRequest; `batch` is None where it has none."""

    producer: str
    seq: int
    after: int
    batch: Fields | None


class PushReader:
    """Reads the PushRequests of a sink's contract."""

    def __init__(self, kind: type[Message], counters: Undecodable) -> None:
        self._kind = kind
        self._columns = Columns(kind)
        self._counters = counters

    def read(self, data: bytes) -> Push:
        """Return the request; `InvalidError` when it is none."""
        try:
            fields = self._columns.read(pa.array([data], pa.binary()))
        except DecodeError as error:
            raise undecodable(self._kind, error, self._counters) from error
        batch = inner(fields["batch"]) if fields["batch"].is_valid()[0].as_py() else None
        producer, seq, after = (fields[name][0].as_py() for name in ("producer", "seq", "after"))
        return Push(producer, seq, after, batch)


class Sink(Protocol):
    """What batches are pushed to."""

    async def push(self, batch: Fields, producer: str, seq: int, after: int) -> Appended:
        """Store a batch; raises what `ColumnStore.append` does."""
        ...

    async def durable_seq(self, producer: str) -> int:
        """Return the last sequence number stored of the producer, 0 if there is none."""
        ...


class Pushes(Generic[R]):
    """The requests of one stream, and their replies."""

    def __init__(self, sink: Sink, requests: AsyncIterator[Push], reply: Callable[..., R]) -> None:
        """Take requests; `reply` makes its PushResponse of durable_seq= and rejected=."""
        self._sink = sink
        self._requests = requests
        self._reply = reply
        self._producer = ""
        # None: there are no more.
        self._asked: asyncio.Queue[asyncio.Future[Appended | int] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(PIPELINE)

    async def replies(self) -> AsyncGenerator[R, None]:
        """Yield a reply for each request; raises what ends the stream."""
        reading = asyncio.ensure_future(self._read())
        try:
            while (asked := await self._asked.get()) is not None:
                try:
                    done = await asked
                except BatchError as error:
                    durable = await self._sink.durable_seq(self._producer)
                    yield self._reply(durable_seq=durable, rejected=str(error))
                else:
                    yield self._reply(durable_seq=done.durable_seq if isinstance(done, Appended) else done)
                self._room.release()
            await reading
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):  # it was said, or nobody listens
                await reading
            while not self._asked.empty():
                if (left := self._asked.get_nowait()) is not None:
                    left.cancel()

    async def _read(self) -> None:
        try:
            async for request in self._requests:
                asked = asyncio.ensure_future(self._ask(request))
                asked.add_done_callback(_seen)
                # It queues its batch before the next one is read: order is kept.
                await asyncio.sleep(0)
                self._asked.put_nowait(asked)
                if asked.done() and not isinstance(asked.exception(), BatchError | None):
                    return  # what follows one that was not taken must not be
                await self._room.acquire()
        finally:
            self._asked.put_nowait(None)

    def _ask(self, request: Push) -> Any:
        producer = self._producer = self._producer or request.producer
        if not producer:
            raise InvalidError("producer: the first request must name it")
        if request.producer not in ("", producer):
            raise InvalidError(f"producer: this stream is {producer}'s")
        if request.batch is not None:
            return self._sink.push(request.batch, producer, request.seq, request.after)
        return self._sink.durable_seq(producer)


def _seen(asked: asyncio.Future[Any]) -> None:
    """Take note of an error that nobody waits for any more, since the stream has ended."""
    if not asked.cancelled():
        asked.exception()
