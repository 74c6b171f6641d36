from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.config import text as texts
from services.config import yaml_reader
from services.config.errors import InvalidError
from services.config.text import Format
from tests.unit.services.config.documents import documents


@given(documents(), st.sampled_from(Format))
@example({"a": "\x85", "b": "x\ny\u2028z"}, Format.YAML)
def test_what_is_written_is_read(document: dict[str, Any], form: Format) -> None:
    assert texts.read(texts.write(document, form), form).data() == document


@given(documents())
def test_json_is_read_as_json_reads_it(document: dict[str, Any]) -> None:
    assert texts.read(json.dumps(document), Format.JSON).data() == document


@given(st.text(), st.sampled_from(Format))
def test_any_text_is_a_document_or_refused(text: str, form: Format) -> None:
    found: object = {}
    with contextlib.suppress(InvalidError):
        found = texts.read(text, form).data()
    assert isinstance(found, dict)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("0777", 777),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!int '1'", 1),
        ("1_000", "1_000"),
        ("true", True),
        ("=", "="),
    ],
)
def test_plain_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    found = texts.read(f"a: {text}", Format.YAML).data()["a"]
    assert (found, type(found)) == (value, type(value))


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(5)
)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (BOMB, "e", "at most 20000 values"),
        ("a: &a {}\nb: [" + "*a, " * 51 + "]", "b[50]", "at most 50"),
        ("a: &a [*a]", "a[0]", "not (or not yet) defined"),
        ("a: " + "[" * 33 + "]" * 33, "a[0][0]", "32 levels"),
        ("a: {b: .nan}", "a.b", "finite"),
        ("a: {b: !!python/name:os.system x}", "a.b", "tag"),
        ("a: !!binary aGk=", "a", "!!binary"),
        ("a: !!int x", "a", "is none"),
        ("? [a]\n: b", "the document", "not plain text"),
        ("a: 1\n'a': 2", "a", "twice"),
        ("a:\n  <<: {x: 1}", 'a["<<"]', "merge keys"),
        ('"": 1', "the document", "a key of 0"),
        ("a: \x00", "text", "control characters"),
        ("a: b: c", "line 1, column 5", "not YAML"),
    ],
)
def test_yaml_that_is_refused(text: str, where: str, what: str) -> None:
    with pytest.raises(InvalidError) as caught:
        texts.read(text, Format.YAML)
    (violation,) = caught.value.violations
    assert violation.where == where
    assert what in violation.what


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('{"a": {"b": 1, "b": 2}}', "a.b", "twice"),
        ('{"a": ' + "[" * 33 + "]" * 33 + "}", "a[0][0]", "32 levels"),
        ('{"a": ' + "[" * 100_000, "text", "32 levels"),
        ('{"a": 1e999}', "a", "finite"),
        ('{"a": NaN}', "a", "finite"),
        ('{"a": "\\ud800"}', "a", "surrogate"),
        ('{"a": ' + "9" * 5000 + "}", "text", "digits"),
        ('{"a": 1,}', "line 1, column 9", "not JSON"),
        ("[1]", "text", "mapping"),
        ('{"a": [' + "1," * 20_000 + "1]}", "a", "20000 values"),
    ],
)
def test_json_that_is_refused(text: str, where: str, what: str) -> None:
    with pytest.raises(InvalidError) as caught:
        texts.read(text, Format.JSON)
    (violation,) = caught.value.violations
    assert violation.where == where
    assert what in violation.what


def test_nothing_is_an_empty_document() -> None:
    for text in ("", "# only a comment\n", "---\n", "{}", "~"):
        assert texts.read(text, Format.YAML).data() == {}


def test_nodes_know_where_they_stand() -> None:
    text = "k: |\n  abcä😀\n  d\n# c\nm: 'x' # y\nz: plain words\nl: [1, {n: 2}]\n"
    root = yaml_reader.read(text).value
    assert isinstance(root, dict)
    spans = {key: text[node.start : node.end] for key, node in root.items() if not isinstance(node.value, list)}
    assert spans == {"k": "|\n  abcä😀\n  d\n", "m": "'x'", "z": "plain words"}
