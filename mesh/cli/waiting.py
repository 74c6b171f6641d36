"""Working until something else happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class LeftError(Exception):
    """What was waited for came before the work was done. Not for people: whoever waits knows what to do then."""


async def unless(work: Awaitable[T], *leaving: Awaitable[Any]) -> T:
    """Return what `work` gives; when one of `leaving` is done first, cancel the work and raise `LeftError`.

    Work that is done by then counts, also when it failed.
    """
    doing = asyncio.ensure_future(work)
    watching = [asyncio.ensure_future(one) for one in leaving]
    try:
        await asyncio.wait((doing, *watching), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise LeftError
    finally:
        for task in (doing, *watching):
            task.cancel()
        # Until they have ended: the work may have something to put in order.
        await asyncio.gather(doing, *watching, return_exceptions=True)
