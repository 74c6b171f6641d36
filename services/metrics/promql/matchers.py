"""Matchers of labels. Regular expressions are RE2's, as Prometheus has them: none takes more than linear time."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import re2

from services.metrics.promql.errors import ParseError

MAX_REGEX = 4096
# What one expression may cost in memory, compiled.
_MAX_MEMORY = 4 << 20
_META = frozenset(r"\.+*?()[]{}^$")


class Op(enum.Enum):
    EQUAL = "="
    NOT_EQUAL = "!="
    MATCHES = "=~"
    MATCHES_NOT = "!~"


@dataclass(frozen=True, slots=True)
class Matcher:
    """A condition on one label; a label that is not there is ""."""

    name: str
    op: Op
    value: str

    def test(self) -> Callable[[str], bool]:
        """Return a function that tells whether a value fits."""
        value = self.value
        if self.op is Op.EQUAL:
            return lambda text: text == value
        if self.op is Op.NOT_EQUAL:
            return lambda text: text != value
        match = compiled(value).fullmatch
        if self.op is Op.MATCHES:
            return lambda text: match(text) is not None
        return lambda text: match(text) is None

    def exact(self) -> tuple[str, ...] | None:
        """Return the only values that can fit, where they can be told from the matcher: `a` or `a|b|c`."""
        if self.op is Op.EQUAL:
            return (self.value,)
        if self.op is Op.MATCHES and not _META.intersection(self.value):
            return tuple(dict.fromkeys(self.value.split("|")))
        return None

    def __str__(self) -> str:
        from services.metrics.promql.labels import quoted

        return f"{self.name}{self.op.value}{quoted(self.value)}"


@functools.lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any:
    """Return the compiled expression, to be used with `fullmatch`.

    Raises:
        ParseError: it is none.

    """
    if len(pattern) > MAX_REGEX:
        raise ParseError(f"a regular expression has {len(pattern)} characters; at most {MAX_REGEX} are served")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        said = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ParseError(f"the regular expression '{pattern[:100]}' is broken: {said}") from error
