"""What a control process opens when it serves the rest already, and keeps trying to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Self, TypeAlias

from mesh.discovery.backoff import Backoff
from mesh.errors import MeshError
from services.host import Host, Hosted

# Loads what opens the services; they run while that context is open.
Opening: TypeAlias = Callable[[], Awaitable[AbstractAsyncContextManager[Sequence[Hosted]]]]

_log = logging.getLogger(__name__)


class Later:
    """Use as `async with Later(...) as later`: from `begin` to the end, `host` serves the services as they open.

    A registry must not be away because logs have no place: what cannot be opened is tried again, and meanwhile its
    health is NOT_SERVING and its callers are told why.
    """

    def __init__(self, host: Host, names: Sequence[str], what: str, opening: Opening) -> None:
        """Open `what`, for sentences, on which the services `names` stand."""
        self._host = host
        self._names = names
        self._what = what
        self._opening = opening
        self._end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._host.expect(self._names, f"{self._what} is being opened: try again in a moment")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end.set()
        if self._task is not None:
            await self._task

    def begin(self) -> None:
        """Begin to open."""
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        backoff = Backoff()
        while not self._end.is_set():
            try:
                opened = await self._opening()
                if self._end.is_set():
                    return
                async with opened as services:
                    await self._host.add(services)
                    await self._end.wait()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the others go on
                # One line: what is opened may say what its libraries said.
                why = " ".join(str(error).split()) or type(error).__name__
                unexpected = None if isinstance(error, MeshError) else error
                _log.warning("%s; trying again", why, exc_info=unexpected)
                await self._host.expect(self._names, why)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff.next()):
                        await self._end.wait()
