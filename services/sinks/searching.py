"""What was asked, in SQL: conditions, pages and their cursors. Decides, and does no I/O."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.message import Message

from services.sinks.errors import InvalidError

# Of one reply, in bytes: what gRPC takes by default is 4 MiB, and one record may have 2.
MAX_REPLY = 3 << 20
MAX_ATTRIBUTES = 20
MAX_NAMES = 100


class Conditions:
    """Conditions of a WHERE and their parameters, as they are gathered."""

    def __init__(self, params: Iterable[object] = ()) -> None:
        """Begin with the parameters that the query has already."""
        self.texts: list[str] = []
        self.params: list[object] = list(params)

    def add(self, condition: str, *values: object) -> None:
        """Add a condition with a `{}` for each of the values."""
        first = len(self.params) + 1
        self.params += values
        self.texts.append(condition.format(*(f"${first + place}" for place in range(len(values)))))


def check_range(start_ns: int, end_ns: int) -> None:
    """Raise `InvalidError` when a time range, of which 0 is open, makes no sense."""
    if start_ns < 0 or end_ns < 0 or (end_ns and end_ns <= start_ns):
        raise InvalidError("filter: end_ns must be later than start_ns, and both after 1970")


def add_names(found: Conditions, column: str, names: Sequence[str]) -> None:
    """Add that the column is one of the names, if there are any."""
    if len(names) > MAX_NAMES:
        raise InvalidError(f"filter: {len(names)} names are more than {MAX_NAMES}")
    if names:
        found.add(f"{column} = ANY({{}})", [plain(name, f"{column}s") for name in names])


def add_attributes(found: Conditions, attributes: Mapping[str, str], *, also: str = "") -> None:
    """Add that there are these attributes, be it with `also` before their names."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidError(f"filter: {len(attributes)} attributes are more than {MAX_ATTRIBUTES}")
    for name, value in sorted(attributes.items()):
        if name[:1] in ("", "$", "/"):  # which DuckDB takes for a path
            raise InvalidError(f"filter.attributes: no attribute can be found by a name like {name!r}")
        paths = [plain(name, "attributes"), *([also + name] if also else [])]
        if value:
            condition, more = "(attributes->>{}) = {}", [plain(value, "attributes")]
        else:
            condition, more = "(attributes->>{}) IS NOT NULL", []
        found.add(f"({' OR '.join([condition] * len(paths))})", *(one for path in paths for one in (path, *more)))


def plain(text: str, name: str) -> str:
    """Return the text; `InvalidError` when there is in it what no database takes."""
    if "\0" in text:
        raise InvalidError(f"filter.{name}: there is a character 0 in it")
    return text


def where(conditions: Iterable[str]) -> str:
    """Return the conditions as a WHERE, or nothing."""
    joined = " AND ".join(conditions)
    return f" WHERE {joined}" if joined else ""


def fitting(found: Sequence[Message], room: int = MAX_REPLY) -> int:
    """Return how many of the messages, from the first on, fit in one reply; at least one does."""
    size = 0
    for count, message in enumerate(found):
        size += message.ByteSize() + 8
        if size > room and count:
            return count
    return len(found)


def encoded(text: str) -> str:
    """Return a text as a cursor."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decoded(cursor: str) -> str:
    """Return what a cursor was made of; `InvalidError` when it cannot be."""
    try:
        return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except ValueError:
        raise InvalidError("cursor: it is not one of this sink's") from None


def write_cursor(*numbers: int) -> str:
    """Return numbers as a cursor."""
    return encoded(".".join(map(str, numbers)))


def read_cursor(cursor: str, count: int) -> tuple[int, ...]:
    """Return the numbers of a cursor."""
    try:
        numbers = tuple(map(int, decoded(cursor).split(".")))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(0 <= number < 2**63 for number in numbers):
        raise InvalidError("cursor: it is not one of this sink's")
    return numbers
