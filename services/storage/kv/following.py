"""A copy of a part of the store, kept up with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from services.storage.kv.base import Batch, CompactedError, StorageError, Store

RETRY_SECONDS = 1.0


async def follow(
    store: Store,
    prefix: str,
    position: Callable[[], int],
    apply: Callable[[Batch], None],
    load: Callable[[], Awaitable[None]],
) -> None:
    """Have what changes under `prefix` behind `position` applied, a revision at a time, until cancelled.

    What is no longer kept is loaded anew, as a whole. While the store is away the copy stays as it is.
    """
    stale = False
    while True:
        try:
            if stale:
                await load()
                stale = False
            async with contextlib.aclosing(store.watch(prefix, position() + 1)) as changes:
                async for batch in changes:
                    apply(batch)
        except CompactedError:
            stale = True
        except StorageError:
            await asyncio.sleep(RETRY_SECONDS)
