"""What is kept, as options and the environment say it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from mesh.errors import StartError, UsageError
from mesh.options import KEEP_VARIABLE
from services import telemetry
from services.logsink.records import LOGS
from services.metrics.options import MetricsOptions
from services.retention import DAY, Retention, retention
from services.storage.columns.base import ColumnStore, Options, TableSchema
from services.tracesink.records import SPANS


def test_defaults_are_those_of_the_stores() -> None:
    found = Retention()
    assert (found.logs, found.traces, found.metrics) == (LOGS.max_age, SPANS.max_age, MetricsOptions().max_age)
    assert found.size == Options().max_bytes


def test_options_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert retention() == Retention()
    monkeypatch.setenv(KEEP_VARIABLE, "logs=12h  size=512MiB")
    assert retention() == Retention(logs=DAY / 2, size=512 << 20)
    assert retention(["traces=2w", "metrics=1d", "size=3TiB"]) == Retention(7 * DAY, 14 * DAY, DAY, 3 << 40)


async def test_the_store_is_opened_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, float] = {}

    def opened(_url: str, schemas: Iterable[TableSchema], options: Options) -> ColumnStore:
        asked.update({schema.name: schema.max_age for schema in schemas}, size=options.max_bytes)
        raise StartError("far enough")

    monkeypatch.setattr(telemetry, "open_columns", opened)
    kept = Retention(2 * DAY, 3 * DAY, 4 * DAY, 1 << 30)
    nothing: Any = None
    with pytest.raises(StartError, match="far enough"):
        async with telemetry.telemetry("duckdb:///x", nothing, nothing, me=("control", "c-1"), keep=kept):
            pass
    assert (asked["logs"], asked["spans"], asked["size"]) == (2 * DAY, 3 * DAY, 1 << 30)
    assert {age for name, age in asked.items() if name.startswith("metric")} == {4 * DAY}


WRONG = ("logs=1h", "logs=9999d", "size=1MiB", "size=10", "logs=10GiB", "size=7d", "spans=7d", "logs", "logs=-1d", "")


@pytest.mark.parametrize("entry", WRONG)
def test_what_makes_no_sense_is_refused(entry: str) -> None:
    with pytest.raises(UsageError, match="--keep"):
        retention([entry])
