"""How long telemetry is kept, and how much of it: `logs=7d`, `traces=7d`, `metrics=15d`, `size=10GiB`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.errors import UsageError
from mesh.options import KEEP_VARIABLE, kept, require

OPTION = "--keep"
DAY = 86_400.0
# Rows go by periods of six hours, and a table has two of them at least.
LEAST_AGE, MOST_AGE = DAY / 2, 3660 * DAY
LEAST_BYTES = 64 << 20

_AGE = re.compile(r"(\d{1,6})(h|d|w)")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}
_SIZE = re.compile(r"(\d{1,9})(MiB|GiB|TiB)")
_SHIFTS = {"MiB": 20, "GiB": 30, "TiB": 40}
_AGES = ("logs", "traces", "metrics")


@dataclass(frozen=True, slots=True)
class Retention:
    """Ages in seconds; the size is that of all of it together. What is oldest goes first."""

    logs: float = 7 * DAY
    traces: float = 7 * DAY
    metrics: float = 15 * DAY
    size: int = 10 << 30

    def __post_init__(self) -> None:
        for name in _AGES:
            require(LEAST_AGE <= getattr(self, name) <= MOST_AGE, f"{OPTION}: {name} is not from 12h to 3660d")
        require(self.size >= LEAST_BYTES, f"{OPTION}: size is less than {LEAST_BYTES >> 20}MiB")


def retention(given: Sequence[str] = ()) -> Retention:
    """Return what is kept: as given, else as the environment says, else the default; raises UsageError."""
    what = OPTION if given else KEEP_VARIABLE
    found: dict[str, float | int] = {}
    for entry in given or kept():
        name, _, value = entry.partition("=")
        age, size = _AGE.fullmatch(value), _SIZE.fullmatch(value)
        if name in _AGES and age:
            found[name] = float(age[1]) * _HOURS[age[2]] * 3600
        elif name == "size" and size:
            found[name] = int(size[1]) << _SHIFTS[size[2]]
        else:
            raise UsageError(f"{what}: '{entry}' is none of logs=7d, traces=12h, metrics=2w, size=10GiB")
    return Retention(**found)  # type: ignore[arg-type]  # ages are floats, the size an int
