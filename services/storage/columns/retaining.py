"""Keeps a store within its bounds while it is open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from services.storage.columns.base import ColumnsError, ColumnStore

EVERY_SECONDS = 60.0

_log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def retaining(store: ColumnStore) -> AsyncIterator[None]:
    """Call `store.retain` now and once a minute while the context is open."""
    task = asyncio.create_task(_retain(store))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _retain(store: ColumnStore) -> None:
    while True:
        try:
            dropped = (await store.retain()).dropped
            if dropped:
                _log.info("dropped %s", ", ".join(period.name for period in dropped))
        except ColumnsError as error:  # a server that restarts, say: the next time may do
            _log.warning("what is too old or too much could not be dropped: %s", error)
        await asyncio.sleep(EVERY_SECONDS)
