"""Values out of a document, each with the place that an error has to name. Pure.

The control plane has checked a release against the published schema. An edge does not rely on it: the schema may have
been another one, and a snapshot is a file that anybody may have edited.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from mesh.config.paths import Path, format_path
from mesh.errors import MeshError, Source, UsageError

T = TypeVar("T")

_SHOWN = 60
_FIELD = re.compile(r"[a-z_]+")
# Longer texts are nowhere wanted.
_LONGEST_TEXT = 1024
_KINDS: Mapping[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
}


class PolicyError(MeshError):
    """A document that the edge cannot use; the text begins with the path of what is wrong."""

    source = Source.DOWNSTREAM

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{format_path(path) or 'the document'}: {what}")


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A value and where it stands. What reads it raises PolicyError where it is another kind of value."""

    value: Any
    path: Path = ()

    def wrong(self, what: str) -> PolicyError:
        """Return an error about this place."""
        return PolicyError(self.path, what)

    def __str__(self) -> str:
        """Return the path."""
        return format_path(self.path)

    def mapping(self, known: Collection[str] | None = None, *, most: int | None = None) -> dict[str, Place]:
        """Return the values of a mapping by key; `known` are the only keys that there may be."""
        found = self._is(dict)
        if most is not None and len(found) > most:
            raise self.wrong(f"there are {len(found)} of them, and may be {most}")
        result = {}
        for key, value in found.items():
            place = Place(value, (*self.path, key))
            if not isinstance(key, str) or (known is not None and key not in known):
                raise place.wrong("is not known here")
            result[key] = place
        return result

    def items(self, *, most: int, least: int = 0) -> list[Place]:
        """Return the values of a list."""
        found = self._is(list)
        if len(found) < least:
            raise self.wrong(f"must have at least {least} of them")
        if len(found) > most:
            raise self.wrong(f"there are {len(found)} of them, and may be {most}")
        return [Place(value, (*self.path, index)) for index, value in enumerate(found)]

    def text(self, *, like: re.Pattern[str] | None = None, what: str = "", longest: int = _LONGEST_TEXT) -> str:
        """Return a text; `what` says in words what `like` wants."""
        found: str = self._is(str)
        if len(found) > longest:
            raise self.wrong(f"must have at most {longest} characters")
        if like is not None and not like.fullmatch(found):
            raise self.wrong(f"{shown(found)} is not {what}")
        return found

    def one_of(self, allowed: Sequence[str]) -> str:
        """Return a text that is one of `allowed`."""
        found: str = self._is(str)
        if found not in allowed:
            raise self.wrong(f"must be one of {', '.join(allowed)}")
        return found

    def truth(self) -> bool:
        """Return a truth value."""
        found: bool = self._is(bool)
        return found

    def whole(self, low: int, high: int) -> int:
        """Return a whole number within bounds."""
        found: int = self._is(int)
        if not low <= found <= high:
            raise self.wrong(f"must be from {low} to {high}")
        return found

    def number(self, low: float, high: float) -> float:
        """Return a number within bounds."""
        found: float = self._is(float)
        if not low <= found <= high:
            raise self.wrong(f"must be from {low:g} to {high:g}")
        return found

    def options(self, kind: Callable[..., T]) -> T:
        """Return options of that class, made of a mapping that has its fields; what is missing has its default."""
        hints = get_type_hints(kind)
        given = {name: place.field(hints[name]) for name, place in self.mapping(hints).items()}
        for field in dataclasses.fields(kind):  # type: ignore[arg-type] # any class of options is a dataclass
            unset = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if unset and field.name not in given:
                raise Place(None, (*self.path, field.name)).wrong("is missing")
        try:
            return kind(**given)
        except UsageError as error:
            raise self._of_options(str(error)) from None

    def _of_options(self, sentence: str) -> PolicyError:
        """Return an error of options, "retry.attempts must be ...", with its place in the document."""
        group, _, rest = sentence.partition(".")
        found = _FIELD.match(rest)
        if found is None or not self.path or group != self.path[-1]:
            return self.wrong(sentence)
        return PolicyError((*self.path, found[0]), rest[found.end() :].lstrip(": "))

    def field(self, hint: Any) -> Any:
        """Return the value of a field of options with that type."""
        allowed = [one for one in get_args(hint) if one is not type(None)] or [hint]
        if hint == frozenset[str]:
            return frozenset(item.text(longest=_SHOWN) for item in self.items(most=_SHOWN))
        return self._is(allowed[0])

    def _is(self, kind: Any) -> Any:
        value: Any = self.value
        if kind is float and type(value) is int:
            # Beyond what a float holds it is no use either.
            value = float(value) if abs(value) < 1 << 62 else math.inf
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            raise self.wrong(f"must be {_KINDS[kind]}")
        return value


def shown(text: str) -> str:
    """Return a text from outside as a sentence may quote it."""
    short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f"'{short}'" if short.isprintable() else ascii(short)
