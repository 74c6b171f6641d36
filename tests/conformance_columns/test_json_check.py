"""JSON that is none is found before it is acknowledged, by DuckDB's own reading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.storage.columns.base import BatchError
from services.storage.columns.json_check import JsonCheck
from services.storage.columns.rows import check
from tests.conformance_columns.tables import SCHEMAS, one

TABLES = {schema.name: schema for schema in SCHEMAS}
TREES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def checking() -> Iterator[JsonCheck]:
    made = JsonCheck(TABLES)
    yield made
    made.close()


def refused(checking: JsonCheck, texts: list[str | None], *, known: bool = False, encoded: bool = False) -> bool:
    table = pa.concat_tables([one("a")["events"]] * len(texts))
    column = pa.array(texts, pa.string())
    table = table.set_column(4, "attributes", column.dictionary_encode() if encoded else column)
    try:
        checking.check([check(TABLES, {"events": table}, "", 0, None, json_known=known)])
    except BatchError:
        return True
    return False


def duckdb_takes(text: str) -> bool:
    try:
        duckdb.execute("SELECT CAST($1 AS JSON)", [text])
    except (duckdb.DataError, UnicodeDecodeError):  # it quotes the text, and may cut a character in two
        return False
    return True


# Written with what JSON does not have (NaN), cut, and changed in one place.
@given(TREES, st.integers(0, 40), st.sampled_from(["", '"', "}", ",", "\\", "\x01", "0", "]"]))
def test_it_says_what_the_database_would(checking: JsonCheck, tree: Any, place: int, changed: str) -> None:
    text = json.dumps(tree, ensure_ascii=False)
    for given_text in (text, text[:place], text[:place] + changed + text[place + 1 :]):
        try:
            given_text.encode()
        except UnicodeEncodeError:
            continue
        assert refused(checking, [given_text]) is not duckdb_takes(given_text)


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("count", [10, 5_000])  # fewer than those of which DuckDB is asked, and more
def test_one_among_many_is_found(checking: JsonCheck, count: int, *, encoded: bool) -> None:
    good: list[str | None] = [None, *(f'{{"number": {number}}}' for number in range(count))]
    assert not refused(checking, good, encoded=encoded)
    assert refused(checking, [*good, '{"number": }'], encoded=encoded)


def test_what_we_made_is_not_looked_at(checking: JsonCheck) -> None:
    assert not refused(checking, ["{"], known=True)
