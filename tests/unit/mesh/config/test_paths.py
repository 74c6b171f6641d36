from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.config.paths import Path, PathError, format_path, parse_path


@given(st.lists(st.text(min_size=1) | st.integers(0, 10**8)).map(tuple))
def test_every_path_has_one_spelling(path: Path) -> None:
    assert parse_path(format_path(path)) == path


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("http", "port"), "http.port"),
        (("routes", 0, "name"), "routes[0].name"),
        (("labels", "a.b"), 'labels["a.b"]'),
        (("x", ""), 'x[""]'),
    ],
)
def test_spelling(path: Path, text: str) -> None:
    assert format_path(path) == text


@pytest.mark.parametrize("text", [".a", "a..b", "a.", "a[", "a[x]", "a[-1]", 'a["\\x"]', "a b", "[0]x", "a[0].[1]"])
def test_no_paths(text: str) -> None:
    with pytest.raises(PathError):
        parse_path(text)
