"""A configuration as a dataclass of the program that reads it. Pure."""

from __future__ import annotations

import dataclasses
import enum
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mesh.config.model import MissingError, View, WrongTypeError
from mesh.config.paths import Path, format_path

T = TypeVar("T")

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read(kind: type[T], view: View) -> T:
    """Return a view's content as `kind`, a dataclass of plain types, lists, mappings and other dataclasses.

    Fields with a default may be left out; keys that no field has are left alone, so that a release can come before the
    program that knows it. A field's own checks belong in `__post_init__`.

    Raises:
        MissingError: a value without a default is not there, or is a secret that was not given.
        WrongTypeError: a value is of another type; the message begins with its path.

    """
    return _Reader(view.missing).value(kind, dict(view.content), ())  # type: ignore[no-any-return] # it is a T


class _Reader:
    def __init__(self, missing: frozenset[str]) -> None:
        self._missing = missing

    def value(self, hint: Any, value: Any, path: Path) -> Any:
        if hint is Any:
            return value
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self._dataclass(hint, value, path)
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            return self._union(arguments, value, path)
        if origin is Literal:
            if value not in arguments:
                raise _wrong(path, f"must be one of {', '.join(map(str, arguments))}")
            return value
        if origin in (list, tuple, set, frozenset) or hint in (list, tuple, set, frozenset):
            return self._list(origin or hint, arguments, value, path)
        if origin in (dict, Mapping) or hint in (dict, Mapping):
            found = _of(dict, value, path, "a mapping")
            inner = arguments[1] if arguments else Any
            return {key: self.value(inner, one, (*path, key)) for key, one in found.items()}
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            try:
                return hint(value)
            except ValueError:
                raise _wrong(path, f"must be one of {', '.join(str(one.value) for one in hint)}") from None
        return _plain(hint, value, path)

    def _dataclass(self, kind: Any, value: Any, path: Path) -> Any:
        found = _of(dict, value, path, "a mapping")
        hints = get_type_hints(kind)
        given = {}
        for one in dataclasses.fields(kind):
            if not one.init:
                continue
            place = (*path, one.name)
            secret = format_path(place) in self._missing
            if one.name in found and not secret:
                given[one.name] = self.value(hints[one.name], found[one.name], place)
            elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
                why = "this secret was not given to the instance: it needs a lease, which serving gives"
                raise MissingError(f"{format_path(place)}: {why if secret else 'is missing'}")
        return kind(**given)

    def _union(self, hints: tuple[Any, ...], value: Any, path: Path) -> Any:
        if value is None and type(None) in hints:
            return None
        others = [hint for hint in hints if hint is not type(None)]
        for hint in others[:-1]:
            try:
                return self.value(hint, value, path)
            except WrongTypeError:
                continue
        return self.value(others[-1], value, path)

    def _list(self, kind: Any, arguments: tuple[Any, ...], value: Any, path: Path) -> Any:
        found = _of(list, value, path, "a list")
        inner = arguments[0] if arguments else Any
        return kind(self.value(inner, one, (*path, index)) for index, one in enumerate(found))


def _plain(hint: Any, value: Any, path: Path) -> Any:
    if hint is float and type(value) is int:
        value = float(value)
    if hint not in _NAMES:
        raise TypeError(f"{format_path(path)}: a configuration has no values of type {hint}")
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise _wrong(path, f"must be {_NAMES[hint]}")
    return value


def _of(kind: type[T], value: Any, path: Path, what: str) -> T:
    if not isinstance(value, kind):
        raise _wrong(path, f"must be {what}")
    return value


def _wrong(path: Path, what: str) -> WrongTypeError:
    return WrongTypeError(f"{format_path(path) or 'the configuration'}: {what}")
