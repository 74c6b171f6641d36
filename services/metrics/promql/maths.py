"""Functions of single values: mathematics, and the calendar (UTC)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from services.metrics.promql.data import Floats, Ints


def sign(values: Floats) -> Floats:
    return np.where(values < 0, -1.0, np.where(values > 0, 1.0, values))


def rounded(values: Floats, nearest: Floats) -> Floats:
    inverse = 1.0 / nearest
    result: Floats = np.floor(values * inverse + 0.5) / inverse
    return result


UNARY: dict[str, Callable[[Floats], Floats]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "floor": np.floor,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "ln": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "sgn": sign,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "deg": np.degrees,
    "rad": np.radians,
}


def _days(seconds: Floats) -> tuple[Ints, Ints]:
    """Return days since 1970-01-01 and seconds of that day; a value that is no time is 1970."""
    whole = np.nan_to_num(np.trunc(seconds), nan=0.0, posinf=0.0, neginf=0.0)
    inside = np.clip(whole, -6e10, 2.5e11).astype(np.int64)
    return inside // 86400, inside % 86400


def _dates(seconds: Floats) -> np.typing.NDArray[np.datetime64]:
    return _days(seconds)[0].astype("datetime64[D]")


def _count(days: Any) -> Floats:
    counted: Floats = days.astype(np.int64).astype(np.float64)
    return counted


def _day_of_month(seconds: Floats) -> Floats:
    days = _dates(seconds)
    return _count(days - days.astype("datetime64[M]")) + 1


def _day_of_year(seconds: Floats) -> Floats:
    days = _dates(seconds)
    return _count(days - days.astype("datetime64[Y]")) + 1


def _days_in_month(seconds: Floats) -> Floats:
    months = _dates(seconds).astype("datetime64[M]")
    return _count((months + 1).astype("datetime64[D]") - months.astype("datetime64[D]"))


def _month(seconds: Floats) -> Floats:
    return (_dates(seconds).astype("datetime64[M]").astype(np.int64) % 12 + 1).astype(np.float64)


def _year(seconds: Floats) -> Floats:
    return (_dates(seconds).astype("datetime64[Y]").astype(np.int64) + 1970).astype(np.float64)


CALENDAR: dict[str, Callable[[Floats], Floats]] = {
    "minute": lambda seconds: (_days(seconds)[1] // 60 % 60).astype(np.float64),
    "hour": lambda seconds: (_days(seconds)[1] // 3600).astype(np.float64),
    # 1970-01-01 was a Thursday; Sunday is 0.
    "day_of_week": lambda seconds: ((_days(seconds)[0] + 4) % 7).astype(np.float64),
    "day_of_month": _day_of_month,
    "day_of_year": _day_of_year,
    "days_in_month": _days_in_month,
    "month": _month,
    "year": _year,
}
