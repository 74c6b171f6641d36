"""Large messages are decoded beside the event loop, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.storage.columns.base import FullError

# Messages that wait to be decoded, in bytes; one is always taken.
MAX_DECODING = 128 << 20

T = TypeVar("T")


class Decoder:
    """A thread of its own: tens of milliseconds for a large message, and the loop has others to serve."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        # Bytes that wait for it.
        self._waiting = 0

    async def run(self, decode: Callable[[bytes], T], data: bytes) -> T:
        """Return what `decode` makes of the data, and raise what it does.

        Raises:
            FullError: too much waits already.

        """
        if self._waiting and self._waiting + len(data) > MAX_DECODING:
            raise FullError(f"{self._waiting >> 20} MiB wait to be decoded: send it again later")
        self._waiting += len(data)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, decode, data)
        finally:
            self._waiting -= len(data)
