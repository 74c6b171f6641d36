"""The configuration of one instance, as its program reads it. Pure."""

from __future__ import annotations

import copy
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, overload

from mesh.config.paths import Path, format_path, parse_path
from mesh.errors import MeshError

T = TypeVar("T", str, int, float, bool)
D = TypeVar("D")

_MASKED = "********"


class MissingError(MeshError):
    """The configuration has no such value, or a secret that this instance was not given."""


class WrongTypeError(MeshError):
    """The value is of another type than the program wants."""


class Outcome(enum.Enum):
    """What an instance makes of a configuration."""

    APPLIED = "applied"
    # It goes on with what it had.
    REJECTED = "rejected"
    # It takes effect at the next start.
    PENDING_RESTART = "pending_restart"


@dataclass(frozen=True, slots=True)
class Subject:
    """Who a configuration is for."""

    application: str
    service: str = ""
    instance: str = ""
    environment: str = ""
    # What gray rules may select by, such as version and zone.
    labels: Mapping[str, str] = field(default_factory=dict)


class _Nothing(enum.Enum):
    NOTHING = enum.auto()


@dataclass(frozen=True)
class View:
    """An effective configuration. Values are read by path: `view.get("http.port", int, 8080)`.

    Printing it shows no secret.
    """

    # Where it is from: 0 and "" before anything came.
    cluster_id: str = ""
    revision: int = 0
    release: int = 0
    checksum: str = ""
    # JSON's types; nobody may change it.
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)
    secret_paths: frozenset[str] = frozenset()
    # Secrets that there are, and that this instance was not given.
    missing: frozenset[str] = frozenset()

    EMPTY: ClassVar[View]

    @overload
    def get(self, path: str, kind: type[T]) -> T: ...
    @overload
    def get(self, path: str, kind: type[T], default: D) -> T | D: ...

    def get(self, path: str, kind: type[T], default: Any = _Nothing.NOTHING) -> Any:
        """Return the value at `path`, which must be of that type; an integer serves as a float.

        Raises:
            MissingError: there is none, and no default is given; or it is a secret that was not given.
            WrongTypeError: it is of another type.

        """
        found = self.find(path, default)
        if found is default and default is not _Nothing.NOTHING:
            return default
        if found is _Nothing.NOTHING:
            raise MissingError(f"{path}: the configuration (release {self.release}) has no such value")
        if kind is float and isinstance(found, int) and not isinstance(found, bool):
            return float(found)
        if type(found) is not kind:
            shown = type(found).__name__
            raise WrongTypeError(f"{path}: must be {kind.__name__}, release {self.release} has {shown}")
        return found

    def find(self, path: str, default: Any = _Nothing.NOTHING) -> Any:
        """Return whatever is at `path`, a copy; or the default.

        Raises:
            MissingError: it is, or holds, a secret that was not given.

        """
        steps = parse_path(path)
        wanted = format_path(steps)
        for secret in self.missing:
            if secret == wanted or parse_path(secret)[: len(steps)] == steps:
                raise MissingError(f"{secret}: this secret was not given to the instance: watch with its lease")
        return copy.deepcopy(_at(self.content, steps, default))

    def masked(self) -> dict[str, Any]:
        """Return the content with its secrets masked, for logs and people."""
        return {key: self._mask(value, (key,)) for key, value in self.content.items()}

    def __str__(self) -> str:
        """Return release and content with secrets masked."""
        return f"release {self.release}: {json.dumps(self.masked(), ensure_ascii=False)}"

    def _mask(self, value: Any, path: Path) -> Any:
        if format_path(path) in self.secret_paths:
            return _MASKED
        if isinstance(value, dict):
            return {key: self._mask(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._mask(inner, (*path, index)) for index, inner in enumerate(value)]
        return value


View.EMPTY = View()


def _at(value: Any, path: Path, default: Any) -> Any:
    for step in path:
        if isinstance(step, str):
            if not isinstance(value, Mapping) or step not in value:
                return default
        elif not isinstance(value, list) or step >= len(value):
            return default
        value = value[step]
    return value
