from __future__ import annotations

import asyncio

import pytest

from mesh.cli.waiting import LeftError, unless


async def result(value: int) -> int:
    return value


async def failure() -> None:
    raise ValueError("on purpose")


async def test_gives_what_the_work_gives() -> None:
    assert await unless(result(3), asyncio.Event().wait()) == 3


async def test_work_that_fails_fails() -> None:
    with pytest.raises(ValueError, match="on purpose"):
        await unless(failure(), asyncio.Event().wait())


async def test_work_that_is_done_counts_though_it_is_time_to_leave() -> None:
    stop = asyncio.Event()
    stop.set()
    assert await unless(result(3), stop.wait()) == 3


async def test_leaving_cancels_the_work_and_waits_for_its_end() -> None:
    stop = asyncio.Event()
    begun, tidied = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            tidied.set()

    async def leave() -> None:
        await begun.wait()
        stop.set()

    leaving = asyncio.create_task(leave())
    with pytest.raises(LeftError):
        await unless(work(), asyncio.Event().wait(), stop.wait())
    assert tidied.is_set()
    await leaving
