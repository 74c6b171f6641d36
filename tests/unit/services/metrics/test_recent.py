"""Series that are kept in memory answer as the store does, whatever came before, meanwhile and after."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import numpy as np

from services.metrics import recent
from services.metrics.promql.data import STALE, Block
from services.metrics.promql.parse import parse_selector
from services.metrics.promql.plan import Fetch
from services.metrics.recent import Recent
from services.metrics.store import MetricStore
from tests.unit.services.metrics.helpers import NOW, labels, opened, samples

SERIES = [labels("load", n=str(n)) for n in range(40)]


def told(block: Block) -> dict[object, list[tuple[int, bytes]]]:
    return {
        one: [
            (at, value.tobytes())
            for at, value in zip(
                block.ts[block.starts[i] : block.starts[i + 1]].tolist(),
                block.values[block.starts[i] : block.starts[i + 1]],
                strict=True,
            )
        ]
        for i, one in enumerate(block.labels)
    }


async def test_answers_are_the_stores_own(tmp_path: Path) -> None:
    dice = random.Random(7)
    async with opened(tmp_path) as store:
        plain = MetricStore(store._columns, store.options, store._clock)
        plain.index, plain._recent = store.index, None
        times: set[tuple[object, int]] = set()

        async def put_new() -> None:
            one = dice.choice(SERIES)
            at = dice.randint(-600, 60)
            if (one, at) not in times:
                times.add((one, at))
                await store.append(samples({one: [(at, dice.choice([STALE, dice.random()]))]}), source="x")

        for _ in range(150):
            await asyncio.gather(*(put_new() for _ in range(dice.randint(0, 6))))
            name = f'load{{n=~"{dice.randint(0, 39)}|{dice.randint(0, 39)}"}}'
            start = NOW + dice.randint(-700, 0) * 1000
            wanted = Fetch(parse_selector(name), start, start + dice.randint(0, 700) * 1000)
            # Some come while the store is asked.
            await asyncio.gather(store.fetch(wanted), put_new(), put_new())
            assert told(await store.fetch(wanted)) == told(await plain.fetch(wanted))
        assert store._recent is not None
        assert store._recent._kept
        asked = store._columns.stats["queries"]
        await store.fetch(wanted)
        assert store._columns.stats["queries"] == asked, "the last one came from memory"


def test_what_is_kept_is_bounded() -> None:
    kept = Recent()
    nothing = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64)
    for slot in range(recent.MAX_SERIES + 100):
        kept.fill(kept.begin([slot], 0), *nothing)
    assert len(kept._kept) == recent.MAX_SERIES
    assert kept.get([0], 0, 9) is None, "the one that was asked for longest ago goes first"
    count = recent.MAX_SAMPLES // 10
    for round_ in range(30):
        slot = 200 + round_ % 20
        at = np.arange(count, dtype=np.int64) + round_ * count
        kept.add(np.full(count, slot, np.int64), at, np.zeros(count))
    assert sum(len(one.ordered()[0]) for one in kept._kept.values()) <= recent.MAX_SAMPLES * 5 // 4 + count
    kept.trim(recent.REACH_MS + 10)
    assert all(one.since == 10 for one in kept._kept.values())


def test_slots_that_are_not_known_are_left_alone() -> None:
    kept = Recent()
    kept.fill(kept.begin([5], 0), *(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64)))
    kept.add(np.array([5, 10**6, 3]), np.array([1, 2, 3]), np.array([1.0, 2.0, 3.0]))
    found = kept.get([5], 0, 10)
    assert found is not None
    assert [array.tolist() for array in found] == [[0], [1], [1.0]]
    assert kept.get([5, 3], 0, 10) is None
