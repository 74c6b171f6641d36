"""What was acknowledged is there, once, whoever is killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from services.storage.columns.base import ColumnStore, Scope, StorageError
from services.storage.columns.urls import open_columns
from tests.conformance_columns.pg_server import PostgresServer
from tests.conformance_columns.pusher import PRODUCERS, ROWS
from tests.conformance_columns.tables import SCHEMAS, bodies, one

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = int(os.environ.get("MESH_KILL_ROUNDS", "3"))


async def stored(store: ColumnStore) -> Counter[str]:
    """Return how many rows each batch has, after a look at whether each of them is there once."""
    found = await store.query(
        "SELECT id, body, count(*) AS n FROM {e} GROUP BY id, body", scopes={"e": Scope("events")}
    )
    assert set(found["n"].to_pylist()) <= {1}
    return Counter(found["id"].to_pylist())


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_a_writer_that_is_killed(url: str) -> None:
    first = 1
    for _ in range(ROUNDS):
        command = [sys.executable, "-m", "tests.conformance_columns.pusher", url, str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as pusher:  # noqa: ASYNC220
            assert pusher.stdout is not None
            acknowledged = [pusher.stdout.readline() for _ in range(random.randrange(20, 60))]
            pusher.send_signal(signal.SIGKILL)
            acknowledged += pusher.stdout.readlines()
        last = Counter(dict.fromkeys(PRODUCERS, 0))
        for line in acknowledged:
            if line.endswith("\n"):
                name, seq = line.split()
                last[name] = max(last[name], int(seq))
        async with open_columns(url, SCHEMAS) as store:
            rows = await stored(store)
            marks = {name: await store.durable_seq(name) or 0 for name in PRODUCERS}
        for name in PRODUCERS:
            assert marks[name] >= last[name] > 0
            assert [rows[f"{name}-{seq}"] for seq in range(1, marks[name] + 1)] == [ROWS] * marks[name]
        assert len(rows) == sum(marks.values())
        # The next round sends again what may be stored already.
        first = max(1, min(last.values()) - 2)


async def test_a_server_that_crashes(postgres: PostgresServer) -> None:
    async with open_columns(postgres.url("crash"), SCHEMAS) as store:
        await store.append(one("1"), producer="p", seq=1)
        crashing = asyncio.create_task(asyncio.to_thread(postgres.crash))
        seq, failures = 2, 0
        while not (crashing.done() and failures and seq > 10):
            try:
                await store.append(one(str(seq)), producer="p", seq=seq)
                seq += 1
            except StorageError:
                failures += 1
                await asyncio.sleep(0.05)
        assert await bodies(store) == [str(number) for number in range(1, seq)]


async def test_two_processes_share_a_server(postgres: PostgresServer) -> None:
    async with open_columns(postgres.url("both"), SCHEMAS) as a, open_columns(postgres.url("both"), SCHEMAS) as b:
        stores = (a, b)
        answers = await asyncio.gather(
            *(stores[n % 2].append(one(f"{n}"), producer=f"p{n % 4}", seq=n // 8 + 1) for n in range(64))
        )
        assert sum(answer.duplicate for answer in answers) == 32
        for store in stores:
            assert len(await bodies(store)) == 32
        rows = await a.query("SELECT row_id FROM {e} ORDER BY row_id", scopes={"e": Scope("events")})
        assert rows["row_id"].to_pylist() == list(range(1, 33))


async def test_one_process_at_a_time_has_the_file(tmp_path: Path) -> None:
    url = f"duckdb://{tmp_path}/columns.db"
    async with open_columns(url, SCHEMAS) as store:
        await store.append(one("a"))
        command = [sys.executable, "-m", "tests.conformance_columns.pusher", url, "1"]
        done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert "StartError" in done.stderr
        assert "another process has it open" in done.stderr
        assert await bodies(store) == ["a"]
