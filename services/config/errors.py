"""What the configuration refuses, each with what a client needs to act on it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mesh.errors import MeshError, Source

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong, and where: a field of the request, or a path in a document."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class ConfigError(MeshError):
    """The root of what the configuration refuses. Its sentence names the first few of its violations."""

    source = Source.DOWNSTREAM

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class InvalidError(ConfigError):
    """A field of the request, or the document in it, is malformed or over a limit."""

    def __init__(self, where: str, what: str) -> None:
        violation = Violation(where, what)
        super().__init__(str(violation), (violation,))


class UnknownError(ConfigError):
    """There is no such thing."""

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.name = name


class PreconditionError(ConfigError):
    """It cannot be done as things stand; `kind` says for programs why, such as SCHEMA or SECRET_KEY."""

    def __init__(self, kind: str, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message, violations or (Violation("", message),))
        self.kind = kind


class ConflictError(ConfigError):
    """Somebody else was faster: read again, then decide again."""


class QuotaError(ConfigError):
    """There would be too many of something."""


class GoneError(ConfigError):
    """What was asked for is no longer kept, or still to come."""


class DeniedError(ConfigError):
    """The caller may not have this."""


def sentence(head: str, violations: Sequence[Violation]) -> str:
    """Return `head` and the first few violations as one sentence."""
    shown = "; ".join(map(str, violations[:_SHOWN]))
    more = len(violations) - _SHOWN
    return f"{head}: {shown}" + (f"; and {more} more" if more > 0 else "")
