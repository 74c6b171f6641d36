"""Old periods go, by age and by size, and nothing else does."""

from __future__ import annotations

import pyarrow as pa

from mesh.testing.clock import ManualClock
from services.storage.columns.base import HOUR_NS, ColumnStore, Period, Scope
from tests.conformance_columns.conftest import Opener
from tests.conformance_columns.tables import EVENTS, NOON, bodies, events, one

AGE_NS = round(EVENTS.max_age * 1e9)


def set_clock(clock: ManualClock, wall_ns: int) -> None:
    clock.advance((wall_ns - clock.wall_ns()) / 1e9)


async def test_what_is_too_old_goes(store: ColumnStore, clock: ManualClock) -> None:
    await store.append(events([(hour * HOUR_NS, "id", f"{hour}") for hour in range(4)]))
    await store.append({"series": pa.table({"id": [1], "name": ["kept"]})})
    set_clock(clock, NOON + 2 * HOUR_NS + AGE_NS)
    assert (await store.retain()).dropped == (Period("events", NOON, HOUR_NS),)
    assert await bodies(store) == ["1", "2", "3"]
    assert await bodies(store, Scope("events", key=("id", "id"))) == ["1", "2", "3"]
    set_clock(clock, NOON + 9 * HOUR_NS + AGE_NS)
    assert len((await store.retain()).dropped) == 3
    assert await bodies(store) == []
    assert (await store.append(one("new"))).last_row_id == 6
    assert (await store.query("SELECT name FROM {s}", scopes={"s": Scope("series")})).num_rows == 1


async def test_the_oldest_go_when_there_is_too_much(opener: Opener, clock: ManualClock) -> None:
    async with opener(max_bytes=6 << 20) as store:
        set_clock(clock, NOON)
        for hour in range(8):
            noise = [(hour * HOUR_NS, f"{hour}.{n}", str(hash((hour, n)) ** 60)) for n in range(2000)]
            await store.append(events(noise))
            await store.retain()
        left = await store.retain()
        assert left.bytes_used <= 6 << 20
        kept = await store.query("SELECT DISTINCT ts_ns AS t FROM {e} ORDER BY t", scopes={"e": Scope("events")})
        hours = [(row["t"] - NOON) // HOUR_NS for row in kept.to_pylist()]
        # The newest, without a gap.
        assert hours == list(range(8 - len(hours), 8))
        assert 0 < len(hours) < 8


async def test_producers_that_are_gone_are_forgotten(opener: Opener, clock: ManualClock) -> None:
    async with opener(producer_age=3600) as store:
        await store.append(one("a"), producer="old", seq=1)
        await store.retain()
        clock.advance(3601)
        await store.append(one("b"), producer="new", seq=1)
        await store.retain()
        assert (await store.durable_seq("old"), await store.durable_seq("new")) == (None, 1)
    async with opener(producer_age=3600) as store:
        assert (await store.durable_seq("old"), await store.durable_seq("new")) == (None, 1)
        assert (await store.append(one("c"))).last_row_id == 3
