"""A record from named values, however their names are spelled."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from mesh.telemetry.formats.times import parse_time
from mesh.telemetry.record import DEBUG, ERROR, FATAL, INFO, LEVELS, TRACE, WARN, Record

_LEVELS: Mapping[str, int] = {
    **LEVELS,
    **dict.fromkeys(("trc", "finest", "finer", "verbose"), TRACE),
    **dict.fromkeys(("dbg", "fine", "d"), DEBUG),
    **dict.fromkeys(("information", "informational", "inf", "config", "i"), INFO),
    "notice": INFO + 1,
    **dict.fromkeys(("warning", "wrn", "w"), WARN),
    **dict.fromkeys(("err", "e", "severe", "failure"), ERROR),
    **dict.fromkeys(("critical", "crit"), ERROR + 1),
    "alert": ERROR + 2,
    **dict.fromkeys(("emerg", "emergency", "panic", "f"), FATAL),
}
LEVEL_WORD = re.compile(
    r"\b(TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERR(?:OR)?|CRIT(?:ICAL)?|ALERT|EMERG|PANIC|FATAL|SEVERE)\b"
)


def _short(text: str) -> bool:
    return len(text) <= 255


# Without case, dots, dashes and underscores; the first that is there counts.
_TIME = ("timestamp", "ts", "time", "timestampns", "datetime", "asctime", "t", "date")
_LEVEL = ("level", "severity", "severitytext", "levelname", "loglevel", "lvl", "priority")
_BODY = ("message", "msg", "body", "log", "event", "text")
_TEXTS: tuple[tuple[str, tuple[str, ...], Callable[[str], object]], ...] = (
    ("trace_id", ("traceid", "oteltraceid"), re.compile(r"[0-9a-fA-F]{32}").fullmatch),
    ("span_id", ("spanid", "otelspanid"), re.compile(r"[0-9a-fA-F]{16}").fullmatch),
    ("correlation_id", ("correlationid", "xcorrelationid", "correlation"), _short),
    ("service", ("service", "servicename", "app", "application"), _short),
    ("instance", ("instance", "instanceid", "serviceinstanceid", "hostname", "host"), _short),
    ("version", ("serviceversion", "version"), _short),
    ("scope", ("logger", "loggername", "name"), _short),
)


def level(value: object) -> int:
    """Return the severity number of a level as it is written; 0 when it is none.

    Numbers are Python's (10 to 50) and pino's (10 to 60), which agree but for the highest.
    """
    if isinstance(value, bool):
        return 0
    if isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdigit()):
        number = int(value)
        return (TRACE, DEBUG, INFO, WARN, ERROR, FATAL)[number // 10 - 1] if number in range(10, 61, 10) else 0
    return _LEVELS.get(value.strip().lower(), 0) if isinstance(value, str) else 0


def from_fields(values: Mapping[str, Any], line: str, zone: dt.tzinfo) -> Record:
    """Return the record that named values make; those that have no place of their own become attributes.

    Without a message its body is the line.
    """
    left = _Left(values)
    record = Record(line)
    if (when := left.take(_TIME)) is not None:
        record.ts_ns = parse_time(when, zone)
        if not record.ts_ns:
            left.values["time"] = when
    if (said := left.take(_LEVEL)) is not None:
        record.severity, record.severity_text = level(said), said if isinstance(said, str) else ""
    if (body := left.take(_BODY)) is not None:
        record.body = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    for name, names, fits in _TEXTS:
        value = left.take(names)
        if value is not None and not isinstance(value, bool | list | dict) and fits(str(value)):
            setattr(record, name, str(value).lower() if name in ("trace_id", "span_id") else str(value))
        elif value is not None:
            left.values[name] = value
    nested = left.values.get("attributes")
    if isinstance(nested, dict):
        del left.values["attributes"]
        left.values |= nested
    record.attributes = left.values
    return record


class _Left:
    """Values that have not been taken, and how their names are spelled."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)
        self._spelled = {_spelling(name): name for name in reversed(self.values)}

    def take(self, names: tuple[str, ...]) -> Any:
        """Return the value of the first of the names that is there."""
        for name in names:
            found = self._spelled.get(name, "")
            if self.values.get(found) is not None:
                return self.values.pop(found)
        return None


def _spelling(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(".", "").replace("@", "")
