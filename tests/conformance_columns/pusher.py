"""A process that appends until it is killed, and prints each batch that is acknowledged.

Arguments: the URL of the store and the first sequence number.
"""

from __future__ import annotations

import asyncio
import sys

from services.storage.columns.base import Options
from services.storage.columns.urls import open_columns
from tests.conformance_columns.tables import SCHEMAS, events

# Two producers, so that transactions hold more than one batch.
PRODUCERS = ("p", "q")
ROWS = 50


async def push(url: str, first: int) -> None:
    async with open_columns(url, SCHEMAS, Options()) as store:

        async def produce(producer: str) -> None:
            for seq in range(first, 1_000_000):
                rows = [(row, f"{producer}-{seq}", f"{producer}-{seq}-{row}") for row in range(ROWS)]
                await store.append(events(rows), producer=producer, seq=seq)
                print(producer, seq, flush=True)  # noqa: T201

        await asyncio.gather(*map(produce, PRODUCERS))


if __name__ == "__main__":
    asyncio.run(push(sys.argv[1], int(sys.argv[2])))
