"""Names of OpenTelemetry as Prometheus' names, by the rules that OpenTelemetry's own exporters follow. Pure."""

from __future__ import annotations

import functools
import re

_UNITS = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "GiBy": "gibibytes",
    "TiBy": "tibibytes",
    "kBy": "kilobytes",
    "KBy": "kilobytes",
    "MBy": "megabytes",
    "GBy": "gigabytes",
    "TBy": "terabytes",
    "m": "meters",
    "V": "volts",
    "A": "amperes",
    "J": "joules",
    "W": "watts",
    "g": "grams",
    "Cel": "celsius",
    "Hz": "hertz",
    "%": "percent",
}
_PER = {"s": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}
_BAD_IN_METRIC = re.compile(r"[^a-zA-Z0-9_:]+")
_BAD_IN_LABEL = re.compile(r"[^a-zA-Z0-9_]")
_ANNOTATION = re.compile(r"\{[^}]*\}")


@functools.lru_cache(maxsize=8192)
def metric_name(name: str, unit: str, *, counter: bool, gauge: bool) -> str:
    """Return the name of a metric, with its unit and `_total` where they belong."""
    made = re.sub("_+", "_", _BAD_IN_METRIC.sub("_", name)).strip("_") or "_"
    if made[0].isdigit():
        made = f"_{made}"
    made = made.removesuffix("_total") if counter else made
    suffix = unit_name(unit)
    if suffix and not made.endswith(suffix):
        made = f"{made}_{suffix}"
    if unit == "1" and gauge and not made.endswith("_ratio"):
        made += "_ratio"
    return f"{made}_total" if counter else made


@functools.lru_cache(maxsize=1024)
def unit_name(unit: str) -> str:
    """Return how a unit of UCUM is written out: "By/s" is bytes_per_second; "" where it adds nothing."""
    bare = _ANNOTATION.sub("", unit).strip()
    if not bare or bare == "1":
        return ""
    of, slash, per = bare.partition("/")
    parts = [_UNITS.get(of, _BAD_IN_LABEL.sub("", of)) if of not in {"", "1"} else ""]
    if slash and per:
        parts.append(f"per_{_PER.get(per, _BAD_IN_LABEL.sub('', per))}")
    return "_".join(part for part in parts if part)


@functools.lru_cache(maxsize=8192)
def label_name(name: str) -> str:
    """Return the name of a label."""
    made = _BAD_IN_LABEL.sub("_", name) or "_"
    return f"key_{made}" if made[0].isdigit() else made
