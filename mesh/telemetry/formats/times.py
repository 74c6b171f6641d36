"""Times as people and programs write them."""

from __future__ import annotations

import datetime as dt
import re

_SECOND = 10**9
_NUMBER = re.compile(r"\d{9,20}(\.\d+)?")
_ISO = re.compile(
    r"(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d):(\d\d):(\d\d)"
    r"(?:[.,](\d{1,9}))?\s?(Z|UTC|[+-]\d\d:?\d\d)?",
    re.ASCII,
)
_CLF = re.compile(r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-]\d{4})", re.ASCII)
_SYSLOG = re.compile(r"([A-Z][a-z]{2}) {1,2}(\d{1,2}) (\d\d):(\d\d):(\d\d)", re.ASCII)
_MONTHS = {
    name: number
    for number, name in enumerate(
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], 1
    )
}


def parse_time(value: object, zone: dt.tzinfo) -> int:
    """Return a time in nanoseconds since 1970, or 0 when it is none; `zone` is that of times that name none.

    Numbers are seconds, milliseconds, microseconds or nanoseconds, whichever makes a time of our days.
    """
    if isinstance(value, bool):
        return 0
    if isinstance(value, int | float):
        return _epoch(value)
    if not isinstance(value, str):
        return 0
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return _epoch(float(text) if "." in text else int(text))
    match = _ISO.match(text)
    return iso(match, zone) if match else clf(text)


def find_time(text: str) -> re.Match[str] | None:
    """Return where a line begins with a time, perhaps in brackets."""
    return _ISO.match(text, 1 if text[:1] in "[(" else 0)


def iso(match: re.Match[str], zone: dt.tzinfo) -> int:
    """Return the time of a match of `find_time`; 0 when there is no such day or hour."""
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    named = match[8]
    if named:
        zone = dt.UTC if named in ("Z", "UTC") else _offset(named)
    nanoseconds = int((match[7] or "0").ljust(9, "0"))
    return _ns(year, month, day, hour, minute, second, zone, nanoseconds)


def clf(text: str) -> int:
    """Return the time of web servers' logs, as in 10/Oct/2000:13:55:36 -0700."""
    match = _CLF.match(text)
    if not match:
        return 0
    day, year, hour, minute, second = (int(match[group]) for group in (1, 3, 4, 5, 6))
    return _ns(year, _MONTHS.get(match[2], 0), day, hour, minute, second, _offset(match[7]), 0)


def syslog(text: str, now_ns: int, zone: dt.tzinfo) -> int:
    """Return the time of old syslog lines, which name no year: that which is nearest to now."""
    match = _SYSLOG.match(text)
    if not match:
        return 0
    day, hour, minute, second = (int(match[group]) for group in range(2, 6))
    this_year = dt.datetime.fromtimestamp(now_ns / _SECOND, zone).year
    years = (
        _ns(year, _MONTHS.get(match[1], 0), day, hour, minute, second, zone, 0)
        for year in (this_year, this_year - 1, this_year + 1)
    )
    return min((found for found in years if found), key=lambda found: abs(found - now_ns), default=0)


def _epoch(value: float) -> int:
    for unit in (_SECOND, 10**6, 10**3, 1):
        # From 1990 to 2100.
        if 631_152_000 * _SECOND <= value * unit < 4_102_444_800 * _SECOND:
            # A float has not the digits for nanoseconds since 1970, but for those of its fraction.
            return int(value) * unit + round((value - int(value)) * unit)
    return 0


def _offset(text: str) -> dt.tzinfo:
    digits = text[1:].replace(":", "")
    minutes = min(int(digits[:2]) * 60 + int(digits[2:]), 24 * 60 - 1)
    return dt.timezone(dt.timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _ns(year: int, month: int, day: int, hour: int, minute: int, second: int, zone: dt.tzinfo, nanoseconds: int) -> int:
    try:
        moment = dt.datetime(year, month, day, hour, minute, min(second, 59), tzinfo=zone)
        since = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        return 0
    return max(0, (since.days * 86_400 + since.seconds) * _SECOND + nanoseconds)
