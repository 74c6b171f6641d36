from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from mesh.errors import StartError
from services.storage.kv.base import Batch, Event, EventKind, Grant, KeyValue, Put, StorageError
from services.storage.kv.embedded import EmbeddedStore
from services.storage.kv.sqlite import SqliteLog
from services.storage.kv.state import Prepared


def test_what_is_written_is_read(tmp_path: Path) -> None:
    old, new = KeyValue("key", b"", 1, 1, 7), KeyValue("key", b"new", 1, 2)
    gone = KeyValue("gone", b"x", 1, 1)
    first = Batch(1, (Event(EventKind.PUT, "key", old, None), Event(EventKind.PUT, "gone", gone, None)))
    second = Batch(2, (Event(EventKind.PUT, "key", new, old), Event(EventKind.EXPIRE, "gone", None, gone)))
    with closing(SqliteLog(tmp_path / "kv.db")) as log:
        cluster_id = log.load().cluster_id
        log.write(Prepared(1, 0, batches=[first], kvs={"key": old, "gone": gone}), {7: (5.0, 123), 8: (5.0, 456)})
        log.write(Prepared(2, 0, batches=[second], kvs={"key": new, "gone": None}, leases={8: None}), {7: (5.0, 789)})
    with closing(SqliteLog(tmp_path / "kv.db")) as log:
        loaded = log.load()
    assert (loaded.cluster_id, loaded.revision, loaded.compact_revision) == (cluster_id, 2, 0)
    assert loaded.kvs == [new]
    assert loaded.history == [first, second]
    assert [(lease.lease_id, lease.ttl, lease.expires_ns) for lease in loaded.leases] == [(7, 5.0, 789)]


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data" / "kv.db"
    SqliteLog(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with closing(SqliteLog(tmp_path / "kv.db")), pytest.raises(StartError, match="another control process uses"):
        SqliteLog(tmp_path / "kv.db")
    SqliteLog(tmp_path / "kv.db").close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"data directory .*/file cannot be written \(Not a directory\)"):
        SqliteLog(tmp_path / "file" / "kv.db")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "kv.db").write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    with pytest.raises(StartError, match=r"kv.db cannot be used \(file is not a database\): restore it"):
        SqliteLog(tmp_path / "kv.db")


def test_a_database_of_somebody_else(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "kv.db")) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StartError, match="is not a database of the mesh"):
        SqliteLog(tmp_path / "kv.db")


def test_a_format_of_the_future(tmp_path: Path) -> None:
    SqliteLog(tmp_path / "kv.db").close()
    with closing(sqlite3.connect(tmp_path / "kv.db")) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StartError, match="has format 99"):
        SqliteLog(tmp_path / "kv.db")


async def test_a_damaged_database(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    async with EmbeddedStore.open(path) as store:
        for number in range(50):
            await store.put(f"key{number}", bytes(1000))
    damaged = bytearray(path.read_bytes())
    damaged[8192:] = b"\xa5" * len(damaged[8192:])
    path.write_bytes(damaged)
    with pytest.raises(StartError, match="cannot be used"):
        EmbeddedStore.open(path)
    with pytest.raises(StartError, match="cannot be used"):
        EmbeddedStore.open(path)  # and the lock was let go


async def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    async with EmbeddedStore.open(path) as store:
        await store.grant(Grant(1, 60))
        log = store._log
        assert isinstance(log, SqliteLog)
        (pages,) = log._db.execute("PRAGMA page_count").fetchone()
        log._db.execute(f"PRAGMA max_page_count = {pages + 5}")
        with pytest.raises(StorageError, match="full"):
            await store.put("big", bytes(100_000), lease=1)
        assert await store.get("big") is None
        log._db.execute("PRAGMA max_page_count = 1000000")
        await store.txn((), (Put("small", b"x", 1),))
    async with EmbeddedStore.open(path) as store:
        assert [kv.key for kv in (await store.range("", prefix=True)).kvs] == ["small"]
