"""What is in the journal of the embedded driver gets into the database, once and in order, whatever fails."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather

from mesh.errors import StartError
from services.storage.columns.base import HOUR_NS, ColumnStore, Scope, StorageError, TableSchema, Type
from services.storage.columns.duckdb_file import DuckDbFile
from services.storage.columns.journal import Journal
from services.storage.columns.rows import Batch, check
from tests.conformance_columns.conftest import Opener
from tests.conformance_columns.tables import NOON, SCHEMAS, bodies, events, one

TABLES = {schema.name: schema for schema in SCHEMAS}
ALL = {"e": Scope("events")}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"duckdb://{tmp_path}/columns.db"


class Gate:
    """Stands before the database: lets batches through, fails them or holds them up."""

    def __init__(self) -> None:
        self.failing = False
        self.open = threading.Event()
        self.open.set()
        self.tries = threading.Semaphore(0)

    def put(self, through: Callable[..., None], file: DuckDbFile, batches: Sequence[Batch], frame: int) -> None:
        self.tries.release()
        self.open.wait(30)
        if self.failing:
            raise StorageError("the disk is full")
        through(file, batches, frame)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made, through = Gate(), DuckDbFile.put
    monkeypatch.setattr(DuckDbFile, "put", lambda file, batches, frame: made.put(through, file, batches, frame))
    return made


@contextlib.asynccontextmanager
async def journal(tmp_path: Path, done: int = 0) -> AsyncIterator[Journal]:
    opened = Journal(tmp_path / "journal")
    opened.open(done)
    try:
        yield opened
    finally:
        opened.close(done)


def batch(body: str, seq: int = 1) -> Batch:
    return check(TABLES, one(body), "p", seq, None)


def found(opened: Journal) -> list[tuple[int, str, int, list[str]]]:
    return [
        (frame.number, frame.batch.producer, frame.batch.seq, frame.batch.tables["events"]["body"].to_pylist())
        for frame in opened.load(TABLES)
    ]


async def test_the_journal_has_what_is_not_done(tmp_path: Path) -> None:
    async with journal(tmp_path) as opened:
        opened.append([batch("a", 1), batch("b", 2)], done=0)
        opened.append([batch("c", 3)], done=1)
        assert found(opened) == [(2, "p", 2, ["b"]), (3, "p", 3, ["c"])]
    async with journal(tmp_path, done=2) as opened:
        assert found(opened) == [(3, "p", 3, ["c"])]
        assert opened.append([batch("d", 4)], done=3)[0].number == 4
        assert found(opened) == [(4, "p", 4, ["d"])]


async def test_frames_go_on_from_what_the_database_has(tmp_path: Path) -> None:
    async with journal(tmp_path, done=41) as opened:  # a new file beside an old database
        assert opened.append([batch("a")], done=41)[0].number == 42


async def test_a_batch_comes_back_as_it_was(tmp_path: Path) -> None:
    encoded = one("a")["events"]
    encoded = encoded.set_column(2, "body", encoded["body"].dictionary_encode())
    tables = {"events": encoded, "series": pa.table({"id": [7], "name": ["up"]})}
    kept = check(TABLES, tables, "p", 9, 4)
    async with journal(tmp_path) as opened:
        opened.append([kept, check(TABLES, {}, "q", 1, None)], done=0)
        first, second = opened.load(TABLES)
    assert first.batch == kept
    assert (second.batch.producer, second.batch.tables, second.batch.rows) == ("q", {}, 0)


async def test_a_later_version_reads_what_was_left_behind(tmp_path: Path) -> None:
    async with journal(tmp_path) as opened:
        opened.append([batch("a")], done=0)
        columns = {name: kind for name, kind in SCHEMAS[0].columns.items() if name != "number"}
        later = TableSchema("events", {**columns, "more": Type.TEXT_LIST}, period_ns=SCHEMAS[0].period_ns)
        (frame,) = opened.load({"events": later})
        (nothing,) = opened.load({})
    table = frame.batch.tables["events"]
    assert table.column_names == [*columns, "more"]
    assert (table["body"].to_pylist(), table["more"].to_pylist()) == (["a"], [None])
    assert nothing.batch.tables == {}


async def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    async with journal(tmp_path) as opened:
        opened.append([batch("a")], done=0)
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def other(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (a)")


def later(path: Path) -> None:
    made = Journal(path)
    made.open(0)
    made.close(0)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (other, "it is no journal of a mesh: move it away"),
        (later, "a later version of the mesh wrote it (format 2): use that one"),
        (lambda path: path.write_bytes(b"x" * 9000), "file is not a database"),
        (Path.mkdir, "Is a directory"),
    ],
)
async def test_a_file_that_is_none_is_not_touched(
    opener: Opener, tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    make(tmp_path / "columns.db.journal")
    for _ in range(2):
        with pytest.raises(StartError, match="the telemetry journal") as refused:
            await opener().__aenter__()
        assert said in str(refused.value)


async def test_what_is_acknowledged_is_seen_at_once(store: ColumnStore, gate: Gate) -> None:
    gate.open.clear()
    for n in range(3):
        await store.append(one(f"{n}"), producer="p", seq=n + 1)
    assert store.stats["journal_bytes"] > 0
    asked = asyncio.ensure_future(bodies(store))
    assert await asyncio.to_thread(gate.tries.acquire, timeout=30)
    assert not asked.done()
    gate.open.set()
    assert await asked == ["0", "1", "2"]
    assert store.stats["journal_bytes"] == 0


@pytest.mark.parametrize(
    "scope",
    [
        Scope("events", end=NOON + HOUR_NS),
        Scope("events", start=NOON + HOUR_NS + 1),
        Scope("events", key=("id", "other")),
        Scope("events", key=("id", ("other", "more"))),
        Scope("series"),
    ],
)
async def test_a_query_waits_for_nothing_that_is_not_of_its_scopes(
    store: ColumnStore, gate: Gate, scope: Scope
) -> None:
    await store.append(one("old"))
    assert await bodies(store) == ["old"]
    gate.open.clear()
    await store.append(one("new", HOUR_NS))
    expected = 1 if scope.end else 0
    found = await store.query("SELECT 1 AS n FROM {t}", scopes={"t": scope})
    assert (found.num_rows, store.stats["journal_bytes"] > 0) == (expected, True)
    gate.open.set()


@pytest.mark.parametrize(
    "scope",
    [
        Scope("events", end=NOON + HOUR_NS + 1),
        Scope("events", start=NOON + HOUR_NS),
        Scope("events", key=("id", "new")),
        Scope("events", key=("id", ("other", "new"))),
        Scope("events", after_row=1),
    ],
)
async def test_a_query_sees_what_is_of_its_scopes(store: ColumnStore, scope: Scope) -> None:
    await store.append(one("old"))
    await store.append(one("new", HOUR_NS))
    assert (await bodies(store, scope))[-1] == "new"


async def test_a_query_that_waits_for_the_database_can_be_given_up(opener: Opener, gate: Gate) -> None:
    async with opener(readers=1) as store:
        gate.open.clear()
        await store.append(one("a"))
        asked = asyncio.ensure_future(bodies(store))
        assert await asyncio.to_thread(gate.tries.acquire, timeout=30)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        # Its reader is free again although the database is not.
        assert (await store.query("SELECT 1 AS n")).to_pylist() == [{"n": 1}]
        gate.open.set()
        assert await bodies(store) == ["a"]


async def test_a_database_that_fails_for_a_while_gets_all_of_it_later(store: ColumnStore, gate: Gate) -> None:
    await store.append(one("0"), producer="p", seq=1)
    assert await bodies(store) == ["0"]
    gate.failing = True
    await store.append(one("1"), producer="p", seq=2)
    assert await bodies(store) == ["0"]  # what there is
    await store.append(one("2"), producer="p", seq=3)
    assert (await store.append(one("1"), producer="p", seq=2)).duplicate
    assert store.stats["flush_failures"] > 0
    gate.failing = False
    await healed(store)
    assert await bodies(store) == ["0", "1", "2"]


async def healed(store: ColumnStore) -> None:
    flushes = store.stats["flushes"]
    while store.stats["flushes"] == flushes:
        await asyncio.sleep(0.01)


async def test_what_the_journal_has_no_room_for_is_refused(opener: Opener, gate: Gate) -> None:
    async with opener(queue_bytes=4000) as store:
        gate.failing = True
        tried = [
            await asyncio.gather(
                store.append(events([(0, "x", "b" * 300)]), producer="p", seq=n + 1), return_exceptions=True
            )
            for n in range(30)
        ]
        refused = [isinstance(answer, StorageError) and "the disk is full" in str(answer) for (answer,) in tried]
        stored = refused.index(True)
        assert 3 < stored < 20
        assert refused == [False] * stored + [True] * (30 - stored)
        gate.failing = False
        await healed(store)
        assert await store.durable_seq("p") == stored
        assert len(await bodies(store)) == stored


async def test_a_store_that_ends_while_its_database_fails_has_it_the_next_time(opener: Opener, gate: Gate) -> None:
    async with opener() as store:
        await store.append(one("a"), producer="p", seq=1)
        await bodies(store)
        gate.failing = True
        await store.append(one("b"), producer="p", seq=2)
    with pytest.raises(StartError, match="the disk is full"):
        await opener().__aenter__()
    gate.failing = False
    async with opener() as store:
        assert await bodies(store) == ["a", "b"]
        assert await store.durable_seq("p") == 2
        assert (await store.append(one("c"), producer="p", seq=3, after=2)).last_row_id == 3


async def test_what_the_database_refuses_for_good_is_kept_aside(
    store: ColumnStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = one("broken")
    broken["events"] = broken["events"].set_column(4, "attributes", pa.array(["{"]))
    await asyncio.gather(
        store.append(one("a"), producer="p", seq=1, after=0),
        store.append(broken, producer="p", seq=2, after=1, json_known=True),
        store.append(one("b"), producer="p", seq=3, after=2),
    )
    assert await bodies(store) == ["a", "b"]
    assert (await store.durable_seq("p"), store.stats["batches_aside"]) == (3, 1)
    (aside,) = (tmp_path / "columns.db.refused").iterdir()
    assert feather.read_table(str(aside))["body"].to_pylist() == ["broken"]
    assert str(tmp_path / "columns.db.refused") in caplog.text
