"""What is appended is there: whole, once, in order."""

from __future__ import annotations

import asyncio
import json

import pyarrow as pa
import pytest

from services.storage.columns.base import BatchError, ColumnStore, FullError, SequenceError, TableSchema, Type
from tests.conformance_columns.conftest import Opener
from tests.conformance_columns.tables import NOON, SCHEMAS, bodies, events, one, rows_of


async def test_all_types_come_back(store: ColumnStore) -> None:
    rows = [
        {
            "ts_ms": 1_767_268_800_123,
            "double_value": 0.1,
            "truth": True,
            "words": "Größe 🦆 '\"; DROP TABLE",
            "tree": '{"a": [1, "ü", null]}',
            "texts": ["x", "", "y,}\\"],
            "counts": [1, 2**62],
            "bounds": [0.005, float("inf")],
        },
        {"ts_ms": 0, **dict.fromkeys(("double_value", "truth", "words", "tree", "texts", "counts", "bounds"))},
    ]
    schema = SCHEMAS[1].arrow
    await store.append({"everything": pa.Table.from_pylist(rows, schema=schema)})
    found = await rows_of(store, "SELECT * FROM {t} ORDER BY row_id", table="everything")
    assert [row.pop("row_id") for row in found] == [1, 2]
    for row in (*rows, *found):
        row["tree"] = row["tree"] and json.loads(str(row["tree"]))
    assert found == rows


async def test_a_batch_may_be_of_several_tables(store: ColumnStore) -> None:
    series = pa.table({"id": [7], "name": ["up"]})
    await store.append({**one("a"), "series": series}, producer="p", seq=1)
    assert await rows_of(store, "SELECT id, name FROM {t}", table="series") == [{"id": 7, "name": "up"}]
    assert await bodies(store) == ["a"]


async def test_what_is_sent_again_is_stored_once(store: ColumnStore) -> None:
    assert await store.durable_seq("p") is None
    first = await store.append(one("a"), producer="p", seq=1)
    again = await store.append(one("a"), producer="p", seq=1)
    assert (first.duplicate, again.duplicate, again.durable_seq) == (False, True, 1)
    await store.append(one("b"), producer="q", seq=1)
    await store.append(one("c"), producer="p", seq=5)
    assert (await store.append(one("late"), producer="p", seq=3)).duplicate
    assert await bodies(store) == ["a", "b", "c"]
    assert await store.durable_seq("p") == 5
    for _ in range(2):  # without a producer nobody can tell
        await store.append(one("d"))
    assert await bodies(store) == ["a", "b", "c", "d", "d"]


@pytest.mark.parametrize("after", [50, 120])
async def test_a_batch_that_does_not_follow_is_refused(store: ColumnStore, after: int) -> None:
    await store.append(one("40-100"), producer="file", seq=100, after=40)
    with pytest.raises(SequenceError) as refused:
        await store.append(one("?-150"), producer="file", seq=150, after=after)
    assert refused.value.durable_seq == 100
    await store.append(one("100-150"), producer="file", seq=150, after=100)
    assert (await store.append(one("120-140"), producer="file", seq=140, after=120)).duplicate
    assert await bodies(store) == ["40-100", "100-150"]


async def test_what_follows_a_batch_that_failed_waits_for_it(store: ColumnStore) -> None:
    broken = one("broken")
    broken["events"] = broken["events"].set_column(4, "attributes", pa.array(["{"]))
    await store.append(one("1"), producer="p", seq=1, after=0)
    answers = await asyncio.gather(
        store.append(broken, producer="p", seq=2, after=1),
        store.append(one("3"), producer="p", seq=3, after=2),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [BatchError, SequenceError]
    await store.append(one("2"), producer="p", seq=2, after=1)
    await store.append(one("3"), producer="p", seq=3, after=2)
    assert await bodies(store) == ["1", "2", "3"]


async def test_the_same_batch_twice_at_a_time_is_stored_once(store: ColumnStore) -> None:
    answers = await asyncio.gather(*(store.append(one(f"{seq}"), producer="p", seq=seq) for seq in (1, 1, 2, 2, 3, 1)))
    assert [answer.duplicate for answer in answers] == [False, True, False, True, False, True]
    assert await bodies(store) == ["1", "2", "3"]


async def test_rows_are_numbered_in_the_order_of_appends(store: ColumnStore) -> None:
    batches = [[(-hour * 3600 * 10**9, "x", f"{batch}.{hour}") for hour in range(3)] for batch in range(20)]
    await asyncio.gather(*(store.append(events(rows)) for rows in batches))
    assert await bodies(store) == [body for rows in batches for _, _, body in rows]
    ids = [row["row_id"] for row in await rows_of(store, "SELECT row_id FROM {t} ORDER BY row_id")]
    assert ids == list(range(1, 61))


async def test_a_malformed_batch_does_not_take_its_neighbours_with_it(store: ColumnStore) -> None:
    broken = one("broken")
    broken["events"] = broken["events"].set_column(4, "attributes", pa.array(["{"]))
    answers = await asyncio.gather(
        store.append(one("a"), producer="p", seq=1),
        store.append(broken, producer="q", seq=1),
        store.append(one("b"), producer="p", seq=2),
        return_exceptions=True,
    )
    assert isinstance(answers[1], BatchError)
    assert await bodies(store) == ["a", "b"]
    assert await store.durable_seq("q") is None
    assert store.stats["refused"] == 1


@pytest.mark.parametrize(
    "batch",
    [
        {"nonsense": pa.table({"a": [1]})},
        {"series": pa.table({"id": [1]})},
        {"series": pa.table({"name": ["up"], "id": [1]})},
        {"series": pa.table({"id": ["text"], "name": ["up"]})},
        {"events": one("a")["events"].set_column(0, "ts_ns", pa.array([None], pa.int64()))},
        events([(hour * 3600 * 10**9, "x", "x") for hour in range(100)]),
    ],
)
async def test_what_the_table_does_not_take_is_refused(store: ColumnStore, batch: dict[str, pa.Table]) -> None:
    with pytest.raises(BatchError):
        await store.append(batch)
    assert await bodies(store) == []


@pytest.mark.parametrize(("producer", "seq", "after"), [("p", 0, None), ("p", 5, 5), ("p", 5, -1), ("p" * 256, 1, 0)])
async def test_a_sequence_must_make_sense(store: ColumnStore, producer: str, seq: int, after: int | None) -> None:
    with pytest.raises(BatchError):
        await store.append(one("a"), producer=producer, seq=seq, after=after)


async def test_the_character_zero_does_no_harm(store: ColumnStore) -> None:
    rows = one("a\0b")
    hostile = pa.array(['{"k": "a\\u0000b", "l": "\\\\u0000"}'])
    rows["events"] = rows["events"].set_column(4, "attributes", hostile)
    await store.append(rows)
    (row,) = await rows_of(store, "SELECT body, attributes->>'l' AS l FROM {t}")
    assert (row["body"].replace("\ufffd", "\0"), row["l"]) == ("a\0b", "\\u0000")


async def test_what_does_not_fit_is_pushed_back(opener: Opener) -> None:
    async with opener(queue_bytes=1000) as store:
        first = asyncio.ensure_future(store.append(one("a")))
        await asyncio.sleep(0)
        with pytest.raises(FullError) as refused:
            await store.append(events([(0, "b", "b" * 1000)]))
        assert refused.value.retry_after > 0
        await first
        await store.append(events([(0, "b", "b" * 1000)]))  # alone, a large one is taken
        assert store.stats["pushed_back"] == 1


async def test_everything_is_there_after_a_restart(opener: Opener) -> None:
    async with opener() as store:
        await store.append(one("a"), producer="p", seq=7)
        await asyncio.gather(*(store.append(one(f"{n}")) for n in range(3)))
    async with opener() as store:
        assert await store.durable_seq("p") == 7
        assert (await store.append(one("a"), producer="p", seq=7)).duplicate
        assert (await store.append(one("b"))).last_row_id == 5
        assert await bodies(store) == ["a", "0", "1", "2", "b"]


async def test_what_was_accepted_is_written_at_the_end(opener: Opener) -> None:
    async with opener() as store:
        asked = [asyncio.ensure_future(store.append(one(f"{n}"))) for n in range(5)]
        await asyncio.sleep(0)
    assert {(await answer).duplicate for answer in asked} == {False}
    async with opener() as store:
        assert await bodies(store) == ["0", "1", "2", "3", "4"]


async def test_a_later_version_may_add_columns(opener: Opener) -> None:
    async with opener() as store:
        await store.append(one("old"))
    later = TableSchema(
        "events", {**SCHEMAS[0].columns, "more": Type.TEXT_LIST}, period_ns=SCHEMAS[0].period_ns, keys=("id",)
    )
    async with opener((later,)) as store:
        rows = one("new")["events"].append_column("more", pa.array([["x"]]))
        await store.append({"events": rows})
        found = await rows_of(store, "SELECT body, more FROM {t} ORDER BY row_id")
    assert found == [{"body": "old", "more": None}, {"body": "new", "more": ["x"]}]


async def test_appends_that_are_given_up_are_stored_or_not(store: ColumnStore) -> None:
    async def give_up() -> None:
        asked = asyncio.ensure_future(store.append(one("a"), producer="p", seq=1))
        await asyncio.sleep(0)
        asked.cancel()

    await give_up()
    stored = await store.durable_seq("p")
    await store.append(one("a"), producer="p", seq=1)
    assert (stored, await bodies(store)) in ((1, ["a"]), (None, ["a"]))
    assert store.stats["queued_bytes"] == 0
    assert NOON  # one row, at its time
