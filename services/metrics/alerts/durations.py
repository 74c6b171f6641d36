"""Durations as Prometheus writes them: 30s, 5m, 1h30m."""

from __future__ import annotations

import re
from typing import Any

from services.metrics.errors import InvalidError

_UNITS = {"y": 365 * 86400.0, "w": 7 * 86400.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_ALL = re.compile(r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?")
MAX_SECONDS = 10 * _UNITS["y"]


def seconds(value: Any, where: str) -> float:
    """Return the seconds of a duration such as "1h30m", or of 0.

    Raises:
        InvalidError: it is none; the message begins with `where`.

    """
    text = str(value).strip() if not isinstance(value, bool) else ""
    if text == "0":
        return 0.0
    match = _ALL.fullmatch(text) if text and len(text) <= 64 else None
    if match is None:
        raise InvalidError(f"{where}: '{text[:64]}' is not a duration, such as 30s, 5m or 1h30m")
    total = sum(int(count) * unit for count, unit in zip(match.groups("0"), _UNITS.values(), strict=True))
    if total > MAX_SECONDS:
        raise InvalidError(f"{where}: '{text}' is longer than ten years")
    return total


def text(total: float) -> str:
    """Return a duration in the same form."""
    left, parts = round(total * 1000), []
    for unit, size in _UNITS.items():
        if unit in {"y", "w"}:
            continue
        count, left = divmod(left, round(size * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
