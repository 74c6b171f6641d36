"""Following etcd: one stream at a time, a new one at the next member when it breaks, from where the last one was."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import grpc

from mesh.api.etcd import v3
from mesh.discovery.backoff import Backoff
from services.storage.kv.base import Batch, CompactedError, StorageError
from services.storage.kv.etcd.assemble import Assembler
from services.storage.kv.etcd.failures import Verdict, judge
from services.storage.kv.etcd.members import WATCH, Member, Members

# How often in a row a watch may be refused before its reader is told: the first time it may be an old token.
MAX_REFUSALS = 3


class _RefusedError(Exception):
    """etcd does not let us watch."""


async def follow(members: Members, assembler: Assembler) -> AsyncGenerator[Batch, None]:
    """Yield what `assembler` makes of etcd's changes, for as long as the store is open.

    Raises:
        CompactedError: changes that it needs are no longer kept.
        StorageError: the store has been closed, or etcd does not permit this.

    """
    backoff = Backoff()
    refusals = 0
    while True:
        member, metadata = members.current, await members.metadata()
        try:
            async with contextlib.aclosing(_stream(members, member, metadata, assembler)) as batches:
                async for batch in batches:
                    backoff.reset()
                    refusals = 0
                    yield batch
        except _RefusedError as error:
            refusals += 1
            if refusals == MAX_REFUSALS:
                raise StorageError(f"etcd does not let us watch: {error}") from error
            await members.renew_token(dict(metadata).get("token", ""))
        if not members.closed:
            members.failed(member)
            await asyncio.sleep(backoff.next())


async def _stream(
    members: Members, member: Member, metadata: tuple[tuple[str, str], ...], assembler: Assembler
) -> AsyncGenerator[Batch, None]:
    """Yield what one stream brings, until it breaks."""
    try:
        with members.stream(member, WATCH, metadata) as call:
            await members.begin(call, assembler.request())
            while isinstance(response := await call.read(), v3.WatchResponse):
                if response.compact_revision:
                    raise CompactedError(response.compact_revision)
                if response.canceled:
                    raise _RefusedError(response.cancel_reason.removeprefix("etcdserver: "))
                for batch in assembler.feed(response):
                    yield batch
    except grpc.aio.AioRpcError as error:
        if judge(error.code(), error.details() or "") is Verdict.TOKEN:
            raise _RefusedError(error.details()) from error
    except (asyncio.CancelledError, grpc.aio.UsageError, asyncio.InvalidStateError):
        if not members.ended_by_close():
            raise
