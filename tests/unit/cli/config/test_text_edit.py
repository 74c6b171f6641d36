from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli.config.text_edit import find_value, parse_value, set_value, unset_value
from mesh.config.paths import Path
from mesh.errors import UsageError
from services.config import text as texts
from services.config.text import Format
from tests.unit.services.config.documents import KEYS, SCALARS, documents

TEXT = """\
# The shop's.
http:
  port: 80  # as ever
  hosts: [a, b]

log: {level: info}  # loud enough
text: |
  more
  lines
# the end
"""


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        (("http", "port"), 8080, "port: 80  #", "port: 8080  #"),
        (("http", "hosts", 1), "no", "[a, b]", "[a, no]"),
        (("http", "name"), "x y", "hosts: [a, b]\n", 'hosts: [a, b]\n  name: "x y"\n'),
        (("http", "tls", "on"), True, "hosts: [a, b]\n", "hosts: [a, b]\n  tls:\n    on: true\n"),
        (("log", "level"), "debug", "info", "debug"),
        (("text",), "less", "|\n  more\n  lines\n", "less\n"),
        (("new", "deep"), 1, "# the end\n", "# the end\nnew:\n  deep: 1\n"),
        (("db",), {"$secret": "x"}, "# the end\n", "# the end\ndb: {$secret: x}\n"),
    ],
)
def test_one_value_is_set_and_the_rest_stays(path: Path, value: Any, old: str, new: str) -> None:
    assert set_value(TEXT, Format.YAML, path, value) == TEXT.replace(old, new)


@pytest.mark.parametrize(
    ("path", "gone"), [(("http", "port"), "  port: 80  # as ever\n"), (("text",), "text: |\n  more\n  lines\n")]
)
def test_one_value_is_taken_out(path: Path, gone: str) -> None:
    assert unset_value(TEXT, Format.YAML, path) == TEXT.replace(gone, "")


PATHS = st.lists(KEYS, min_size=1, max_size=3).map(tuple)


@given(documents(SCALARS), PATHS, SCALARS | documents(SCALARS), st.sampled_from(Format))
def test_whatever_the_text_is_the_value_is_there_afterwards(
    document: dict[str, Any], path: Path, value: Any, form: Format
) -> None:
    text = texts.write(document, form)
    try:
        edited = set_value(text, form, path, value)
    except UsageError:
        return
    found = texts.read(edited, form).data()
    assert find_value(found, path) == value
    without = texts.read(unset_value(edited, form, path), form).data()
    with pytest.raises(UsageError):
        find_value(without, path)
    assert texts.read(set_value(texts.write(without, form), form, path, value), form).data() == found


@pytest.mark.parametrize("path", [("http", "port", "x"), ("http", "hosts", 7), ("http", 0), ("http", "hosts", "x")])
def test_what_cannot_be_set(path: Path) -> None:
    with pytest.raises(UsageError, match="http"):
        set_value(TEXT, Format.YAML, path, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80", 80),
        ("true", True),
        ("[a, b]", ["a", "b"]),
        ("a: b", "a: b"),
        ("", ""),
        ("x y", "x y"),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_values_on_the_command_line(text: str, value: Any) -> None:
    assert parse_value(text) == value
