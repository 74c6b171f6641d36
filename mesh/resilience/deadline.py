"""The `grpc-timeout` header: at most 8 digits and a unit."""

from __future__ import annotations

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_DIGITS = 8
_MAX_VALUE = 10**_MAX_DIGITS

# Clients repeat themselves: what was worked out once is kept, within bounds.
_MAX_KNOWN = 4096
_parsed: dict[bytes, float] = {}
# Whole milliseconds, from one second on: finer would be lost on the way to the upstream.
_COARSE, _MAX_COARSE = 1000, 3_600_000
_formatted: dict[int, bytes] = {}


def parse_timeout(value: bytes) -> float | None:
    """Return the seconds that a `grpc-timeout` value stands for, or None when it is malformed."""
    known = _parsed.get(value)
    return _parse(value) if known is None else known


def _parse(value: bytes) -> float | None:
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > _MAX_DIGITS:
        return None
    if len(_parsed) >= _MAX_KNOWN:
        _parsed.clear()
    seconds = _parsed[value] = int(digits) * unit
    return seconds


def format_timeout(seconds: float) -> bytes:
    """Return `seconds` as a `grpc-timeout` value; what is past is 0.

    In milliseconds, rounded down, from a second to an hour; else in the finest unit that 8 digits hold.
    """
    amount = int(seconds * 1000)
    return _formatted.get(amount) or _format(seconds, amount)


def _format(seconds: float, amount: int) -> bytes:
    if seconds <= 0:
        return b"0n"
    if _COARSE <= amount < _MAX_COARSE:
        if len(_formatted) >= _MAX_KNOWN:
            _formatted.clear()
        value = _formatted[amount] = b"%dm" % amount
        return value
    for unit, scale in ((b"n", 1e9), (b"u", 1e6), (b"m", 1e3), (b"S", 1.0), (b"M", 1 / 60)):
        amount = int(seconds * scale)
        if amount < _MAX_VALUE:
            return b"%d%s" % (amount, unit)
    return b"%dH" % min(int(seconds / 3600), _MAX_VALUE - 1)
