"""The formats: each reads one event, of one line or several, or says that it is not of its kind."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from mesh.errors import UsageError
from mesh.telemetry.formats import times
from mesh.telemetry.formats.fields import LEVEL_WORD, from_fields, level
from mesh.telemetry.record import DEBUG, ERROR, FATAL, INFO, WARN, Record

FORMATS = ("auto", "json", "logfmt", "clf", "syslog", "plain")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What lines do not say themselves."""

    # Of times that name no zone.
    zone: dt.tzinfo
    # For times without a year.
    now_ns: int


# Returns None for what is not of its kind.
Parser = Callable[[str, Surroundings], Record | None]

_PAIR = re.compile(r"""([A-Za-z_][\w.@/-]*)=(?:"((?:[^"\\]|\\.)*)"|([^\s"]*))(?:\s+|$)""")
_CLF = re.compile(
    r'(\S{1,255}) (\S{1,255}) (\S{1,255}) \[([^\]]{10,40})\] "((?:[^"\\]|\\.)*)" (\d{3}) (\d+|-)'
    r'(?: "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)")?(?: (.*))?',
    re.DOTALL,
)
_OLD_SYSLOG = re.compile(
    r"(?:<(\d{1,3})>)?([A-Z][a-z]{2} {1,2}\d{1,2} \d\d:\d\d:\d\d) (\S+) ([^\s:\[]{1,128})(?:\[(\d+)\])?: ?(.*)",
    re.DOTALL,
)
_SYSLOG = re.compile(
    r"<(\d{1,3})>1 (\S+) (\S+) (\S+) (\S+) (\S+) (-|(?:\[(?:[^\]\\]|\\.)*\])+) ?\ufeff?(.*)", re.DOTALL
)
_DATA = re.compile(r'([^\s="\]]{1,32})="((?:[^"\\\]]|\\.)*)"')
# By the severity of syslog, from 0 (emergency) to 7 (debug).
_PRIORITIES = (FATAL, ERROR + 2, ERROR + 1, ERROR, WARN, INFO + 1, INFO, DEBUG)
# Where the level stands in a line of plain text.
_HEAD = 160


def parser(name: str) -> Parser:
    """Return the parser of a format: one of `FORMATS`, or `regex:` and an expression with named groups.

    What is not of its kind is read as plain text, which everything is.

    Raises:
        UsageError: there is no such format.

    """
    if name.startswith("regex:"):
        return _regex(name.removeprefix("regex:"))
    if name not in FORMATS:
        raise UsageError(f"--format: '{name}' is none of {', '.join(FORMATS)}, regex:EXPRESSION")
    order = _AUTO if name == "auto" else (_BY_NAME[name],)

    def parse(event: str, around: Surroundings) -> Record:
        for one in order:
            if (record := one(event, around)) is not None:
                return record
        return plain(event, around)

    return parse


def json_object(event: str, around: Surroundings) -> Record | None:
    if event[:1] != "{":
        return None
    try:
        values = json.loads(event)
    except (ValueError, RecursionError):
        return None
    return from_fields(values, event, around.zone) if isinstance(values, dict) else None


def logfmt(event: str, around: Surroundings) -> Record | None:
    values: dict[str, str] = {}
    place = 0
    while match := _PAIR.match(event, place):
        values[match[1]] = _unescaped(match[2]) if match[2] is not None else match[3]
        place = match.end()
    if len(values) < 2 or place < len(event.rstrip()):
        return None
    return from_fields(values, event, around.zone)


def clf(event: str, around: Surroundings) -> Record | None:  # noqa: ARG001 - all parsers are called alike
    """Read web servers' common and combined log format."""
    match = _CLF.fullmatch(event)
    if not match or not (ts_ns := times.clf(match[4])):
        return None
    status = int(match[6])
    method, _, rest = match[5].partition(" ")
    path, _, protocol = rest.rpartition(" ") if " " in rest else (rest, "", "")
    said = {
        "client.address": match[1],
        "user.name": match[3],
        "http.request.method": method,
        "url.path": path,
        "network.protocol": protocol,
        "http.response.status_code": status,
        "http.response.body.size": int(match[7]) if match[7] != "-" else 0,
        "http.request.header.referer": match[8],
        "user_agent.original": match[9],
        "more": match[10],
    }
    severity = ERROR if status >= 500 else WARN if status >= 400 else INFO
    attributes = {name: value for name, value in said.items() if value not in (None, "", "-")}
    return Record(f"{match[5]} {status}", ts_ns, severity, attributes=attributes)


def syslog(event: str, around: Surroundings) -> Record | None:
    """Read RFC 5424, and what was usual before it."""
    if match := _SYSLOG.fullmatch(event):
        priority, when, host, app, pid, message_id, data, text = match.groups()
        attributes = {"pid": pid, "message_id": message_id}
        attributes |= {name: _unescaped(value) for name, value in _DATA.findall(data)}
        ts_ns = times.parse_time(when, around.zone)
    elif match := _OLD_SYSLOG.fullmatch(event):
        priority, when, host, app, pid, text = match.groups()
        attributes = {"pid": pid}
        ts_ns = times.syslog(when, around.now_ns, around.zone)
    else:
        return None
    found = LEVEL_WORD.search(text[:_HEAD])
    severity = _PRIORITIES[int(priority) % 8] if priority else level(found[1]) if found else INFO
    known = {name: value for name, value in attributes.items() if value not in (None, "-")}
    return Record(
        text,
        ts_ns,
        severity,
        service="" if app == "-" else app,
        instance="" if host == "-" else host,
        attributes=known,
    )


def plain(event: str, around: Surroundings) -> Record:
    """Read any text: the time at its begin and the first word that is a level, if they are there."""
    record = Record(event)
    if match := times.find_time(event):
        record.ts_ns = times.iso(match, around.zone)
        if record.ts_ns:
            record.body = event[match.end() :].lstrip(" \t])-:") or event
    if word := LEVEL_WORD.search(event[:_HEAD]):
        record.severity, record.severity_text = level(word[1]), word[1]
    return record


def _regex(expression: str) -> Parser:
    try:
        pattern = re.compile(expression, re.DOTALL)
    except re.error as error:
        raise UsageError(f"--format: the expression '{expression}' is not valid: {error}") from error
    if not pattern.groupindex:
        raise UsageError("--format: the expression has no named groups, such as (?P<message>.*)")

    def parse(event: str, around: Surroundings) -> Record:
        match = pattern.search(event)
        if match is None:
            return plain(event, around)
        return from_fields({name: text for name, text in match.groupdict().items() if text}, event, around.zone)

    return parse


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), text)


def _auto_logfmt(event: str, around: Surroundings) -> Record | None:
    # Text with an equals sign or two in it is not logfmt.
    record = logfmt(event, around)
    return record if record is not None and (record.severity or record.ts_ns or record.body != event) else None


_AUTO: tuple[Parser, ...] = (json_object, clf, syslog, _auto_logfmt)
_BY_NAME: dict[str, Parser] = {
    "json": json_object,
    "logfmt": logfmt,
    "clf": clf,
    "syslog": syslog,
    "plain": plain,
}
