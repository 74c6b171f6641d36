"""Every test of this folder runs with every driver."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from mesh.testing.clock import ManualClock
from services.storage.columns.base import ColumnStore, Options, TableSchema
from services.storage.columns.urls import open_columns
from tests.conformance_columns.pg_server import PostgresServer, running
from tests.conformance_columns.tables import SCHEMAS

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with running() as server:
        yield server


@pytest.fixture(params=["duckdb", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a store that is empty."""
    if request.param == "duckdb":
        return f"duckdb://{tmp_path}/columns.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(f"test_{next(_numbers)}")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


Opener = Callable[..., ColumnStore]


@pytest.fixture
def opener(url: str, clock: ManualClock) -> Opener:
    """Return what opens the store, again and again, with options as given."""

    def make(schemas: tuple[TableSchema, ...] = SCHEMAS, **options: int | float) -> ColumnStore:
        return open_columns(url, schemas, Options(**options), clock)  # type: ignore[arg-type]

    return make


@pytest.fixture
async def store(opener: Opener) -> AsyncIterator[ColumnStore]:
    async with opener() as opened:
        yield opened
