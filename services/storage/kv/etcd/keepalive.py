"""Renewing leases: all of them over one stream, each request answered by one reply."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TypeAlias

import grpc

from mesh.api.etcd import v3
from mesh.discovery.backoff import Backoff
from services.storage.kv.base import StorageError
from services.storage.kv.etcd.failures import Verdict, judge
from services.storage.kv.etcd.members import KEEPALIVE, Members

Reply = v3.LeaseKeepAliveResponse
# In quotes: this is generic only in grpc's type stubs.
Stream: TypeAlias = "grpc.aio.StreamStreamCall[v3.LeaseKeepAliveRequest, Reply]"


class KeepAlives:
    """Renewal is repeatable: what a broken stream leaves unanswered is asked again on the next one."""

    def __init__(self, members: Members, timeout: float) -> None:
        """Give up on a renewal after `timeout` seconds."""
        self._members = members
        self._timeout = timeout
        # What is asked for, by lease: callers that ask at the same time share an answer.
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._outbox: list[int] = []
        self._asked = asyncio.Event()

    async def renew(self, lease_id: int) -> Reply:
        """Return etcd's reply, whose ttl is 0 when there is no such lease; raise `StorageError` when none comes."""
        answer = self._waiting.get(lease_id)
        if answer is None:
            answer = self._waiting[lease_id] = asyncio.get_running_loop().create_future()
            self._outbox.append(lease_id)
            self._asked.set()
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(answer)
        except TimeoutError:
            raise StorageError("etcd does not answer in time: the lease was not renewed") from None

    async def run(self) -> None:
        """Carry requests and replies until cancelled."""
        backoff = Backoff()
        while True:
            await self._asked.wait()
            member = self._members.current
            token = ""
            try:
                metadata = await self._members.metadata()
                token = dict(metadata).get("token", "")
                with self._members.stream(member, KEEPALIVE, metadata) as call:
                    await self._carry(call, backoff)
            except grpc.aio.AioRpcError as error:
                if judge(error.code(), error.details() or "") is Verdict.TOKEN:
                    with contextlib.suppress(StorageError):
                        await self._members.renew_token(token)
            except StorageError:
                pass  # no token; whoever waits will be told in time
            if self._waiting:
                self._asked.set()
            else:
                self._asked.clear()
            self._members.failed(member)
            await asyncio.sleep(backoff.next())

    async def _carry(self, call: Stream, backoff: Backoff) -> None:
        """Use one stream until it ends."""
        # No other stream will bring replies to what has been asked for so far.
        self._outbox = list(self._waiting)
        sending = asyncio.create_task(self._send(call))
        try:
            while isinstance(reply := await call.read(), Reply):
                self._answer(reply)
                backoff.reset()
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await sending

    def fail(self) -> None:
        """Tell all who wait that nothing will come any more."""
        for answer in self._waiting.values():
            answer.set_exception(StorageError("the store has been closed"))
            answer.exception()  # nobody may be waiting any more
        self._waiting.clear()

    async def _send(self, call: Stream) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            outbox, self._outbox = self._outbox, []
            for lease_id in outbox:
                await call.write(v3.LeaseKeepAliveRequest(id=lease_id))

    def _answer(self, reply: Reply) -> None:
        answer = self._waiting.pop(reply.id, None)
        if answer is not None and not answer.done():
            answer.set_result(reply)
