"""Which series and labels there are: what `Series` and `Labels` ask for, over gRPC and HTTP alike."""

from __future__ import annotations

from collections.abc import Sequence

from services.metrics.errors import InvalidError
from services.metrics.promql.labels import Labels, get
from services.metrics.promql.matchers import Matcher
from services.metrics.promql.parse import parse_selector
from services.metrics.series import SeriesIndex

DEFAULT_LIMIT = 10_000
MAX_LIMIT = 100_000


def limit(asked: int) -> int:
    """Return how many to return when so many are asked for; 0 is the default."""
    return min(asked, MAX_LIMIT) if asked > 0 else DEFAULT_LIMIT


def series(index: SeriesIndex, match: Sequence[str], start: int | None, most: int) -> tuple[list[Labels], bool]:
    """Return label sets that any selector fits and that had a sample since `start`; and whether there are more.

    Raises:
        InvalidError: no selector is given.
        ParseError: one is broken.

    """
    if not match:
        raise InvalidError('match[]: no selector is given, such as up or {job="edge"}')
    slots = index.select(_groups(match), start)
    return list(index.of(slots[:most])), len(slots) > most


def names(index: SeriesIndex, match: Sequence[str], start: int | None, most: int) -> tuple[list[str], bool]:
    """Return the names of labels, in order; and whether there are more."""
    if not match and start is None:
        found = index.names()
    else:
        slots = index.select(_groups(match), start)
        found = sorted({name for labels in index.of(slots) for name, _ in labels})
    return found[:most], len(found) > most


def values(index: SeriesIndex, name: str, match: Sequence[str], start: int | None, most: int) -> tuple[list[str], bool]:
    """Return the values of a label, in order; and whether there are more."""
    if not match and start is None:
        found = index.values(name)
    else:
        slots = index.select(_groups(match), start)
        found = sorted({value for labels in index.of(slots) if (value := get(labels, name))})
    return found[:most], len(found) > most


def _groups(match: Sequence[str]) -> list[tuple[Matcher, ...]]:
    return [group for text in match for group in parse_selector(text).matchers]
