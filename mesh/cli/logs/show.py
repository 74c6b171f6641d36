"""How log records look on a terminal, and as data."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Mapping
from typing import Any

from mesh.api.logsink.v1 import LogRecord
from mesh.cli.output import print_json, print_line
from mesh.telemetry.record import level_name

_STYLES = {"TRACE": "dim", "DEBUG": "dim", "INFO": "green", "WARN": "yellow", "ERROR": "red", "FATAL": "bold red"}
# Attributes that say nothing to who reads lines; --json has them.
_HIDDEN = ("resource.telemetry.", "mesh.")
# Of an edge's record of a call: what its time, its message and its correlation id say already.
_ACCESS = "access"
_IN_BODY = frozenset({"ts", "correlation_id", "method", "code"})
_MAX_VALUE = 200
_QUOTED = frozenset(' \n\t"')
# As OpenTelemetry calls them, and what the trace says as well.
_TRACE = "exception.stacktrace"
_TOLD_BY_TRACE = (_TRACE, "exception.type", "exception.message")


class Printer:
    """Prints records as lines, or as a JSON object a line."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console: Any = None
        if not as_json and sys.stdout.isatty():
            from rich.console import Console

            self._console = Console(highlight=False)

    def print(self, record: LogRecord) -> None:
        if self._as_json:
            print_json(structure(record), indent=None)
        elif self._console is not None:
            self._console.print(_styled(record), soft_wrap=True)
        else:
            print_line(line(record))


def structure(record: LogRecord) -> dict[str, Any]:
    """Return a record as JSON has it; what is empty is left out."""
    shown: dict[str, Any] = {
        "time": _time(record.ts_ns, dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "ts_ns": record.ts_ns,
        "level": level_name(record.severity_number),
    }
    for name in (
        *("service", "instance", "version", "scope", "body", "event_name", "correlation_id", "trace_id", "span_id"),
        *("severity_number", "severity_text"),
    ):
        shown[name] = getattr(record, name)
    shown["attributes"] = _attributes(record)
    return {name: value for name, value in shown.items() if value not in ("", 0, {})}


def line(record: LogRecord) -> str:
    """Return a record as text: time, level, where it comes from, message, attributes. Traces go on indented."""
    return "".join(text for text, _ in _parts(record))


def _styled(record: LogRecord) -> Any:
    from rich.text import Text

    return Text.assemble(*((text, style) for text, style in _parts(record)))


def _parts(record: LogRecord) -> list[tuple[str, str]]:
    level = level_name(record.severity_number)
    where = record.instance if record.instance.startswith(record.service) else f"{record.service}/{record.instance}"
    attributes = _attributes(record)
    body = _indented(record.body)
    parts = [
        (_time(record.ts_ns, None).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3], "dim"),
        (f" {level:<5}", _STYLES.get(level, "")),
        (f" {where.strip('/') or '-'}", "cyan"),
        (f"  {body}", ""),
    ]
    shown = {name: value for name, value in attributes.items() if _says(record, name, value)}
    # Below the line, as in a log file; it ends with the kind of the exception and what it says.
    trace = attributes.get(_TRACE)
    if not isinstance(trace, str) or not trace.strip():
        trace = ""
    for name in _TOLD_BY_TRACE if trace else ():
        shown.pop(name, None)
    if record.correlation_id:
        shown["cid"] = record.correlation_id
    said = " ".join(f"{_plain(name)}={_value(value)}" for name, value in shown.items())
    if said:
        parts.append((f"  {said}", "dim"))
    if trace:
        parts.append((f"\n    {_indented(trace)}", ""))
    return parts


def _indented(text: str) -> str:
    return _plain(text.rstrip()).replace("\n", "\n    ")


def _says(record: LogRecord, name: str, value: Any) -> bool:
    """Tell whether an attribute says what the line does not say yet."""
    if value is None or name.startswith(_HIDDEN):
        return False
    return not (record.event_name == _ACCESS and name in _IN_BODY)


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _plain(text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}…")
    return json.dumps(text, ensure_ascii=False) if not text or set(text) & _QUOTED else text


def _plain(text: str) -> str:
    """Return text without what would command a terminal: logs hold what strangers wrote."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)


def _attributes(record: LogRecord) -> Mapping[str, Any]:
    try:
        tree = json.loads(record.attributes or "{}")
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _time(ts_ns: int, zone: dt.tzinfo | None) -> dt.datetime:
    seconds, rest = divmod(ts_ns, 10**9)
    return dt.datetime.fromtimestamp(seconds, zone).replace(microsecond=rest // 1000)
