"""The `grpc-timeout` header: at most 8 digits and a unit."""

from __future__ import annotations

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_DIGITS = 8
_MAX_VALUE = 10**_MAX_DIGITS


def parse_timeout(value: bytes) -> float | None:
    """Return the seconds that a `grpc-timeout` value stands for, or None when it is malformed."""
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > _MAX_DIGITS:
        return None
    return int(digits) * unit


def format_timeout(seconds: float) -> bytes:
    """Return `seconds` as a `grpc-timeout` value, in the finest unit that 8 digits hold; what is past is 0."""
    if seconds <= 0:
        return b"0n"
    for unit, scale in ((b"n", 1e9), (b"u", 1e6), (b"m", 1e3), (b"S", 1.0), (b"M", 1 / 60)):
        amount = int(seconds * scale)
        if amount < _MAX_VALUE:
            return b"%d%s" % (amount, unit)
    return b"%dH" % min(int(seconds / 3600), _MAX_VALUE - 1)
