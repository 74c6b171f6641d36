from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from mesh.config.model import MissingError, View, WrongTypeError
from mesh.config.typed import read


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Database:
    url: str
    password: str = ""
    pool: int = 4


@dataclass(frozen=True)
class Settings:
    database: Database
    timeout: float = 1.5
    debug: bool = False
    names: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    colour: Colour = Colour.RED
    level: Literal["low", "high"] = "low"
    maybe: int | None = None
    either: int | str = 0
    anything: Any = None
    others: Mapping[str, Database] = field(default_factory=dict)
    pair: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ValueError("timeout must be above 0")


def settings(content: dict[str, Any], missing: frozenset[str] = frozenset()) -> Settings:
    return read(Settings, View(content=content, missing=missing))


def test_everything() -> None:
    found = settings(
        {
            "database": {"url": "db://x", "password": "p", "pool": 9, "new": "key"},
            "timeout": 3,
            "debug": True,
            "names": ["a", "b"],
            "limits": {"x": 1},
            "colour": "blue",
            "level": "high",
            "maybe": 5,
            "either": "text",
            "anything": {"deep": [1]},
            "others": {"second": {"url": "db://y"}},
            "pair": [1, 2],
            "unknown": 1,
        }
    )
    assert found == Settings(
        Database("db://x", "p", 9),
        timeout=3.0,
        debug=True,
        names=["a", "b"],
        limits={"x": 1},
        colour=Colour.BLUE,
        level="high",
        maybe=5,
        either="text",
        anything={"deep": [1]},
        others={"second": Database("db://y")},
        pair=(1, 2),
    )
    assert isinstance(found.timeout, float)


def test_defaults_and_null() -> None:
    found = settings({"database": {"url": "db://x"}, "maybe": None})
    assert found == Settings(Database("db://x"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"timeout": "1"}, "timeout: must be a number"),
        ({"timeout": float("nan")}, "timeout: must be a number"),
        ({"debug": 1}, "debug: must be true or false"),
        ({"names": "a"}, "names: must be a list"),
        ({"names": ["a", 2]}, r"names\[1\]: must be text"),
        ({"limits": []}, "limits: must be a mapping"),
        ({"limits": {"x": True}}, "limits.x: must be a whole number"),
        ({"colour": "green"}, "colour: must be one of red, blue"),
        ({"level": "middle"}, "level: must be one of low, high"),
        ({"either": []}, "either: must be text"),
        ({"others": {"a b": {"url": 1}}}, r'others\["a b"\].url: must be text'),
        ({"database": []}, "database: must be a mapping"),
    ],
)
def test_values_of_another_type(content: dict[str, Any], said: str) -> None:
    with pytest.raises(WrongTypeError, match=said):
        settings({"database": {"url": "db://x"}, **content})


def test_what_is_missing() -> None:
    with pytest.raises(MissingError, match="database: is missing"):
        settings({})
    with pytest.raises(MissingError, match=r"database.url: is missing"):
        settings({"database": {}})


def test_secrets_that_were_not_given() -> None:
    content = {"database": {"url": "********", "password": "********"}}
    assert settings({"database": {"url": "u", "password": "****"}}, frozenset({"database.password"})) == Settings(
        Database("u")
    )
    with pytest.raises(MissingError, match=r"database.url: this secret was not given"):
        settings(content, frozenset({"database.url"}))


def test_the_program_s_own_checks() -> None:
    with pytest.raises(ValueError, match="above 0"):
        settings({"database": {"url": "u"}, "timeout": 0})


def test_types_that_no_configuration_has() -> None:
    @dataclass
    class Odd:
        value: bytes

    with pytest.raises(TypeError, match="value"):
        read(Odd, View(content={"value": "x"}))
