from __future__ import annotations

from typing import Any

import pytest

from mesh.config.model import MissingError, View, WrongTypeError

VIEW = View(
    "cluster",
    7,
    3,
    "sum",
    {"http": {"port": 80, "tls": True, "wait": 2}, "routes": [{"to": "a"}], "db": {"password": "hunter2"}, "x.y": "z"},
    frozenset({"db.password"}),
)


@pytest.mark.parametrize(
    ("path", "kind", "value"),
    [
        ("http.port", int, 80),
        ("http.tls", bool, True),
        ("http.wait", float, 2.0),
        ("routes[0].to", str, "a"),
        ('["x.y"]', str, "z"),
        ("db.password", str, "hunter2"),
    ],
)
def test_values_by_path(path: str, kind: Any, value: object) -> None:
    found = VIEW.get(path, kind)
    assert (found, type(found)) == (value, kind)


def test_what_is_not_there() -> None:
    assert VIEW.get("http.host", str, "localhost") == "localhost"
    assert VIEW.get("http.host", str, None) is None
    for path in ("http.host", "routes[1].to", "http.port.x", "http[0]"):
        with pytest.raises(MissingError, match=r"release 3"):
            VIEW.get(path, str)


@pytest.mark.parametrize(("path", "kind"), [("http.port", str), ("http.tls", int), ("http.tls", float), ("http", int)])
def test_another_type(path: str, kind: Any) -> None:
    with pytest.raises(WrongTypeError, match=path):
        VIEW.get(path, kind)


def test_printing_shows_no_secret() -> None:
    for text in (str(VIEW), repr(VIEW), f"{VIEW}", str(VIEW.masked())):
        assert "hunter2" not in text
    assert VIEW.masked()["db"] == {"password": "********"}


def test_a_secret_that_was_not_given() -> None:
    holes = View(content=VIEW.content, secret_paths=VIEW.secret_paths, missing=VIEW.secret_paths)
    for path in ("db.password", "db", ""):
        with pytest.raises(MissingError, match=r"db\.password: this secret was not given"):
            holes.find(path)
    assert holes.get("http.port", int) == 80


def test_what_is_found_is_a_copy() -> None:
    VIEW.find("http")["port"] = 1
    assert VIEW.get("http.port", int) == 80
