from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli.output import print_json, progress, say, table

cells = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


@given(st.lists(st.tuples(cells, cells, cells), max_size=6))
def test_a_table_can_be_cut_by_awk(rows: list[tuple[str, str, str]]) -> None:
    lines = table(("A", "B", "C"), rows)
    assert [tuple(line.split()) for line in lines] == [("A", "B", "C"), *rows]


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
def test_columns_of_a_table_begin_below_each_other(rows: list[tuple[str, str]]) -> None:
    lines = table(("A", "B"), rows)
    width = max(len(first) for first, _ in (("A", "B"), *rows)) + 2
    assert [line[width:] for line in lines] == ["B", *(second for _, second in rows)]


def test_json_goes_to_stdout_and_news_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1]}, indent=None)
    say("something happened")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": [1]}
    assert out.count("\n") == 1
    assert err == "mesh: something happened\n"


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as shown:
        shown.update("working")
        shown.clear()
    assert capsys.readouterr() == ("", "")
