"""What is asked is answered: exactly, within its scope, and no longer than somebody waits."""

from __future__ import annotations

import asyncio
import random

import pytest

from services.storage.columns.base import HOUR_NS, ColumnStore, FullError, QueryError, Scope
from tests.conformance_columns.conftest import Opener
from tests.conformance_columns.tables import NOON, bodies, events, one, rows_of

# Far more than can be counted in the time of a test.
ENDLESS = "SELECT count(*) AS n FROM {a}, {b}, {c}, {d} WHERE (a.row_id * b.row_id + c.row_id * d.row_id) % 1000003 = 5"
ALL = {name: Scope("events") for name in "abcd"}


async def test_scopes_are_what_a_scan_finds(store: ColumnStore) -> None:
    choose = random.Random(4)
    rows = [(choose.randrange(-3 * HOUR_NS, 3 * HOUR_NS), choose.choice("uvwxyz"), f"{n}") for n in range(300)]
    for first in range(0, 300, 30):
        await store.append(events(rows[first : first + 30]))
    edges: list[int | None] = [None, -HOUR_NS, 0, 1, HOUR_NS, *(choose.choice(rows)[0] for _ in range(4))]
    for _ in range(30):
        start, end = choose.choice(edges), choose.choice(edges)
        id_, row_before = choose.choice("uz?_"), choose.randrange(300)
        scope = Scope(
            "events",
            start=None if start is None else NOON + start,
            end=None if end is None else NOON + end,
            key=("id", id_) if id_ != "_" else None,
            after_row=row_before,
        )
        expected = [
            body
            for row, (ts, key, body) in enumerate(rows, 1)
            if (start is None or ts >= start) and (end is None or ts < end) and id_ in ("_", key) and row > row_before
        ]
        assert await bodies(store, scope) == expected


async def test_keys_are_found_over_all_periods_and_restarts(opener: Opener) -> None:
    async with opener() as store:
        for hour in range(20):
            await store.append(events([(hour * HOUR_NS, "often", f"{hour}"), (hour * HOUR_NS, f"id-{hour}", "x")]))
    async with opener() as store:
        assert await bodies(store, Scope("events", key=("id", "often"))) == [f"{hour}" for hour in range(20)]
        assert await bodies(store, Scope("events", key=("id", "id-7"))) == ["x"]
        assert await bodies(store, Scope("events", key=("id", "id-77"))) == []


async def test_sql_that_both_speak(store: ColumnStore) -> None:
    await store.append(events([(n, f"id{n % 3}", f"Message {n}") for n in range(10)]))
    (row,) = await rows_of(
        store,
        "SELECT count(*) AS n, sum(row_id) AS total, avg(row_id) AS mean,"
        " count(*) FILTER (WHERE body ~ '[0-4]$') AS low,"
        " percentile_cont(0.5) WITHIN GROUP (ORDER BY row_id) AS median, min(ts_ns - ts_ns % 7) AS step"
        " FROM {t} WHERE body ILIKE $1 AND id = ANY($2)",
        "%MESSAGE%",
        ["id0", "id1", "id2"],
    )
    step = NOON - NOON % 7
    assert row == {"n": 10, "total": 55, "mean": 5.5, "low": 5, "median": 5.5, "step": step}
    newest = await rows_of(store, "SELECT DISTINCT ON (id) id, body FROM {t} ORDER BY id, row_id DESC")
    assert [tuple(one.values()) for one in newest] == [("id0", "Message 9"), ("id1", "Message 7"), ("id2", "Message 8")]


async def test_a_query_without_a_scope(store: ColumnStore) -> None:
    assert (await store.query("SELECT CAST($1 AS BIGINT) + 1 AS n", [41])).to_pylist() == [{"n": 42}]


async def test_rows_of_nothing_have_their_columns(store: ColumnStore) -> None:
    found = await store.query("SELECT * FROM {e}", scopes={"e": Scope("events", start=0, end=1)})
    assert found.num_rows == 0
    assert found.column_names == ["ts_ns", "id", "body", "number", "attributes", "row_id"]


@pytest.mark.parametrize(
    ("sql", "scope"),
    [
        ("SELECT nonsense FROM {e}", Scope("events")),
        ("SELECT FROM FROM", Scope("events")),
        ("SELECT body FROM {e} WHERE body ~ '('", Scope("events")),
        ("SELECT body FROM {e}", Scope("nonsense")),
        ("SELECT body FROM {e}", Scope("events", key=("body", "x"))),
    ],
)
async def test_what_makes_no_sense_is_refused(store: ColumnStore, sql: str, scope: Scope) -> None:
    await store.append(one("a"))
    with pytest.raises(QueryError):
        await store.query(sql, scopes={"e": scope})
    assert await bodies(store) == ["a"]


async def test_a_query_that_nobody_waits_for_ends(opener: Opener) -> None:
    async with opener(readers=1) as store:
        await store.append(events([(n, "x", f"{n}") for n in range(1000)]))
        for _ in range(3):
            endless = asyncio.create_task(store.query(ENDLESS, scopes=ALL))
            await asyncio.wait((endless,), timeout=0.2)
            endless.cancel()
            with pytest.raises(asyncio.CancelledError):
                await endless
        # The one reader is free again.
        assert len(await bodies(store)) == 1000


async def test_queries_wait_and_not_too_many(opener: Opener) -> None:
    async with opener(readers=1, waiting=2) as store:
        await store.append(events([(n, "x", f"{n}") for n in range(1000)]))
        endless = asyncio.create_task(store.query(ENDLESS, scopes=ALL))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(bodies(store)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await bodies(store)
        endless.cancel()
        assert [len(found) for found in await asyncio.gather(*waiting)] == [1000, 1000]


async def test_queries_do_not_hold_up_appends(opener: Opener) -> None:
    async with opener(readers=1) as store:
        await store.append(events([(n, "x", f"{n}") for n in range(1000)]))
        endless = asyncio.create_task(store.query(ENDLESS, scopes=ALL))
        await asyncio.wait((endless,), timeout=0.2)
        await store.append(one("more"))
        assert not endless.done()
        endless.cancel()


async def test_whoever_waits_for_rows_wakes(store: ColumnStore) -> None:
    assert await store.committed(0, 0.01) == 0
    waiting = asyncio.create_task(store.committed(0, 30.0))
    await asyncio.sleep(0)
    await store.append(one("a"))
    assert await waiting == 1
    assert await bodies(store, Scope("events", after_row=1)) == []
