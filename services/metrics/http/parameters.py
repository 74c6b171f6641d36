"""Parameters of Prometheus' HTTP API. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from services.metrics.alerts.durations import seconds
from services.metrics.errors import InvalidError


class Parameters:
    """What came in the query string and the form."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def text(self, name: str) -> str:
        """Return a parameter that must be there; InvalidError when it is not."""
        found = self._values.get(name)
        if not found or not found[0]:
            raise InvalidError(f'invalid parameter "{name}": it is missing')
        return found[0]

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def time(self, name: str) -> int | None:
        """Return a time in milliseconds: seconds since 1970, or RFC 3339."""
        if not (text := self._values.get(name, [""])[0]):
            return None
        try:
            number = float(text)
        except ValueError:
            return _rfc3339(name, text)
        if not math.isfinite(number) or abs(number) > 1e13:
            raise InvalidError(f'invalid parameter "{name}": cannot parse "{text[:100]}" to a valid timestamp')
        return round(number * 1000)

    def needed_time(self, name: str) -> int:
        found = self.time(name)
        if found is None:
            raise InvalidError(f'invalid parameter "{name}": it is missing')
        return found

    def duration(self, name: str) -> float | None:
        """Return seconds: a number of them, or such as 5m."""
        if not (text := self._values.get(name, [""])[0]):
            return None
        try:
            number = float(text)
        except ValueError:
            return seconds(text, f'invalid parameter "{name}"')
        if not math.isfinite(number) or not 0 <= number < 1e10:
            raise InvalidError(f'invalid parameter "{name}": cannot parse "{text[:100]}" to a valid duration')
        return number

    def count(self, name: str) -> int:
        """Return a whole number, 0 when it is not given."""
        text = self._values.get(name, [""])[0]
        if not text:
            return 0
        if not (text.isascii() and text.isdigit() and len(text) < 12):
            raise InvalidError(f'invalid parameter "{name}": "{text[:100]}" is not a whole number')
        return int(text)


def _rfc3339(name: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidError(f'invalid parameter "{name}": cannot parse "{text[:100]}" to a valid timestamp') from error
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
