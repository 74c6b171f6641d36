"""`mesh logs`: what its options mean, and how records look."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.api.logsink.v1 import Filter, LogRecord
from mesh.cli.logs.asking import make_filter, parse_time
from mesh.cli.logs.show import line, structure
from mesh.errors import UsageError

NOW = 1_795_363_200_000_000_000
HOUR = 3600 * 10**9
NOTHING: dict[str, Any] = {
    "now_ns": NOW,
    "text": "",
    "services": [],
    "instances": [],
    "level": "",
    "correlation_id": "",
    "since": "",
    "until": "",
    "attributes": [],
    "regex": "",
    "follow": False,
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Filter(start_ns=NOW - HOUR, end_ns=NOW + HOUR)),
        ({"correlation_id": "c"}, Filter(correlation_id="c")),
        (
            {"correlation_id": "c", "since": "2h"},
            Filter(correlation_id="c", start_ns=NOW - 2 * HOUR, end_ns=NOW + HOUR),
        ),
        ({"since": "3d", "until": "1d ago"}, Filter(start_ns=NOW - 72 * HOUR, end_ns=NOW - 24 * HOUR)),
        ({"until": "2026-11-22T15:00:00Z"}, Filter(start_ns=NOW - 2 * HOUR, end_ns=NOW - HOUR)),
        ({"follow": True, "level": "Warn", "text": "x"}, Filter(min_severity=13, text="x")),
        (
            {"follow": True, "attributes": ["order.id=7", "sku", "a=b=c"], "services": ["s"]},
            Filter(attributes={"order.id": "7", "sku": "", "a": "b=c"}, services=["s"]),
        ),
    ],
)
def test_options_make_a_filter(options: dict[str, Any], expected: Filter) -> None:
    assert make_filter(**(NOTHING | options)) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"level": "loud"},
        {"since": "yesterday"},
        {"since": "1h", "until": "2h"},
        {"follow": True, "since": "1h"},
        {"attributes": ["=7"]},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        make_filter(**(NOTHING | options))


def test_times_before_1970_are_1970() -> None:
    assert parse_time("999999w", "--since", NOW) == 1


RECORD = LogRecord(
    ts_ns=NOW + 123_456_789,
    severity_number=17,
    body="it broke\nTraceback\n",
    service="orders",
    instance="orders-1",
    correlation_id="order-7",
    attributes='{"sku": "green tea", "n": 3, "resource.telemetry.sdk.name": "x", "bell": "\\u0007"}',
)


def test_a_line_has_everything_and_commands_no_terminal() -> None:
    shown = line(RECORD)
    assert shown.partition(".")[2] == (
        '123 ERROR orders-1  it broke\n    Traceback  sku="green tea" n=3 bell=\\x07 cid=order-7'
    )
    assert "\x1b" not in line(LogRecord(ts_ns=NOW, body="\x1b[2J", service="a", instance="b"))
    assert " a/b  \\x1b[2J" in line(LogRecord(ts_ns=NOW, body="\x1b[2J", service="a", instance="b"))


def test_json_has_what_is_there() -> None:
    assert structure(LogRecord(ts_ns=NOW, body="x", attributes="{}")) == {
        "time": "2026-11-22T16:00:00.000000Z",
        "ts_ns": NOW,
        "body": "x",
    }
    assert structure(RECORD)["attributes"]["n"] == 3


def test_a_call_at_the_edge_is_said_once() -> None:
    attributes = {"ts": 1.5, "correlation_id": "order-7", "listener": "public", "method": "/a.B/C", "code": "OK"}
    record = LogRecord(
        ts_ns=NOW,
        body="/a.B/C OK",
        event_name="access",
        service="mesh-edge",
        instance="e",
        correlation_id="order-7",
        attributes=json.dumps({**attributes, "endpoint": None, "attempts": 1}),
    )
    assert line(record).endswith(" mesh-edge/e  /a.B/C OK  listener=public attempts=1 cid=order-7")
    assert structure(record)["attributes"].keys() >= attributes.keys(), "data has all of it"
    record.event_name = ""
    assert "code=OK" in line(record), "what others call so may be something else"


def test_a_stack_trace_is_below_its_line() -> None:
    about = {
        "sku": "tea",
        "exception.type": "ValueError",
        "exception.message": "no",
        "exception.stacktrace": 'Traceback:\n  File "a.py"\nValueError: no\x1b\n',
        "note": "two\nlines",
    }
    record = LogRecord(ts_ns=NOW, body="it failed", service="a", instance="b", attributes=json.dumps(about))
    assert line(record).partition(" a/b  ")[2] == (
        'it failed  sku=tea note="two\\nlines"\n    Traceback:\n      File "a.py"\n    ValueError: no\\x1b'
    )
    record.attributes = json.dumps({"exception.stacktrace": 7, "exception.type": "E"})
    assert line(record).endswith("it failed  exception.stacktrace=7 exception.type=E")
