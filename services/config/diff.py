"""What differs between two documents, path by path. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mesh.config.paths import Path, format_path
from services.config import secrets
from services.config.text import canonical
from services.config.tree import Document, Value


@dataclass(frozen=True, slots=True)
class Difference:
    """A path at which there is something else, or something on one side only. Values are JSON."""

    path: str
    before: str | None
    after: str | None


_NOTHING = object()


def diff(before: Document, after: Document) -> list[Difference]:
    """Return the differences in the order of the paths. Mappings are looked into; lists are compared as a whole."""
    return list(_diff(before, after, ()))


def _diff(before: Value, after: Value, path: Path) -> Iterator[Difference]:
    if _mapping(before) and _mapping(after) and ((before and after) or not path):
        for key in sorted(before.keys() | after.keys()):
            yield from _diff(before.get(key, _NOTHING), after.get(key, _NOTHING), (*path, key))
    elif _mapping(before) and before and after is _NOTHING:
        for key in sorted(before):
            yield from _diff(before[key], _NOTHING, (*path, key))
    elif _mapping(after) and after and before is _NOTHING:
        for key in sorted(after):
            yield from _diff(_NOTHING, after[key], (*path, key))
    elif _json(before) != _json(after):
        yield Difference(format_path(path), _json(before), _json(after))


def _mapping(value: Value) -> bool:
    return isinstance(value, dict) and secrets.masked(value) is None


def _json(value: Value) -> str | None:
    return None if value is _NOTHING else canonical(value)
