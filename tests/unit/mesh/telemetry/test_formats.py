"""Lines of every format become records; whatever is no line of its format is still a record."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import UsageError
from mesh.telemetry.formats.fields import level
from mesh.telemetry.formats.lines import FORMATS, Surroundings, parser
from mesh.telemetry.formats.times import parse_time
from mesh.telemetry.record import Record, to_batch

NOW = 1_795_363_200_000_000_000  # 2026-11-22T16:00:00Z
AROUND = Surroundings(dt.timezone(dt.timedelta(hours=1)), NOW)


def ns(text: str) -> int:
    return round(dt.datetime.fromisoformat(text).timestamp()) * 10**9


def read(line: str, format_: str = "auto") -> Record:
    record = parser(format_)(line, AROUND)
    assert record is not None
    return record


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '{"ts": 1795363200.25, "level": "warning", "msg": "low", "correlationId": "c", "sku": "tea", "n": 3}',
            Record("low", NOW + 250_000_000, 13, "warning", correlation_id="c", attributes={"sku": "tea", "n": 3}),
        ),
        (
            (
                '{"@timestamp": "2026-11-22T16:00:00Z", "log.level": "ERROR", "message": "m", "service.name": "s",'
                ' "trace_id": "0AF7651916CD43DD8448EB211C80319C", "span_id": "short"}'
            ),
            Record(
                *("m", NOW, 17, "ERROR", "s"),
                trace_id="0af7651916cd43dd8448eb211c80319c",
                attributes={"span_id": "short"},
            ),
        ),
        (
            '{"attributes": {"a": 1}, "name": "app.db", "levelno": 40, "severity": 40}',
            Record(
                '{"attributes": {"a": 1}, "name": "app.db", "levelno": 40, "severity": 40}',
                severity=13,
                scope="app.db",
                attributes={"levelno": 40, "a": 1},
            ),
        ),
        (
            'time=2026-11-22T17:00:00+01:00 level=error msg="it \\"broke\\"" order.id=7 empty=',
            Record('it "broke"', NOW, 17, "error", attributes={"order.id": "7", "empty": ""}),
        ),
        (
            '10.0.0.1 - bob [22/Nov/2026:17:00:00 +0100] "GET /a b HTTP/1.1" 404 12',
            Record(
                "GET /a b HTTP/1.1 404",
                NOW,
                13,
                attributes={
                    "client.address": "10.0.0.1",
                    "user.name": "bob",
                    "http.request.method": "GET",
                    "url.path": "/a b",
                    "network.protocol": "HTTP/1.1",
                    "http.response.status_code": 404,
                    "http.response.body.size": 12,
                },
            ),
        ),
        (
            '<34>1 2026-11-22T16:00:00Z host app 77 ID47 [ex@1 key="v\\]"] \ufefffailed',
            Record(
                *("failed", NOW, 18, "", "app", "host"),
                attributes={"pid": "77", "message_id": "ID47", "key": "v]"},
            ),
        ),
        (
            "Nov 22 17:00:00 host sshd[77]: ERROR: no",
            Record("ERROR: no", NOW, 17, "", "sshd", "host", attributes={"pid": "77"}),
        ),
        ("[2026-11-22 17:00:00,250] WARN: careful", Record("WARN: careful", NOW + 250_000_000, 13, "WARN")),
        ("a=1 is no logfmt", Record("a=1 is no logfmt")),
        ("2026-13-45 25:00:00 not a time", Record("2026-13-45 25:00:00 not a time")),
        ("", Record("")),
    ],
)
def test_auto_knows_what_a_line_is(line: str, expected: Record) -> None:
    found = read(line)
    assert found == expected


def test_a_regex_names_the_parts() -> None:
    record = read(
        "16:00 [E] (c-1) broke", r"regex:(?P<clock>\S+) \[(?P<level>\w)\] \((?P<correlation_id>.*?)\) (?P<msg>.*)"
    )
    assert record == Record(
        "broke", severity=17, severity_text="E", correlation_id="c-1", attributes={"clock": "16:00"}
    )


@pytest.mark.parametrize("name", ["xml", "regex:(", "regex:no groups"])
def test_formats_that_are_none(name: str) -> None:
    with pytest.raises(UsageError):
        parser(name)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1795363200, NOW),
        (1795363200.5, NOW + 500_000_000),
        ("1795363200000", NOW),
        (1795363200000000, NOW),
        (NOW + 7, NOW + 7),
        ("2026-11-22 17:00:00", NOW),
        ("2026/11/22 16:00:00.000000001 UTC", NOW + 1),
        (True, 0),
        (None, 0),
        ("yesterday", 0),
        (12, 0),
        (float("nan"), 0),
        (float("inf"), 0),
        ("2026-02-30 00:00:00", 0),
        ([], 0),
    ],
)
def test_times(value: object, expected: int) -> None:
    assert parse_time(value, AROUND.zone) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Warning", 13), ("CRITICAL", 18), (30, 9), ("50", 17), ("loud", 0), (True, 0), (None, 0), (7, 0), ("²", 0)],
)
def test_levels(value: object, expected: int) -> None:
    assert level(value) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    st.sampled_from(("ts", "level", "msg", "message", "trace_id", "service", "host", "attributes", "a", "")) | st.text()
)


@given(st.text() | st.dictionaries(KEYS, JSON).map(json.dumps), st.sampled_from(FORMATS))
def test_any_text_becomes_a_record_that_can_be_sent(line: str, format_: str) -> None:
    record = read(line, format_)
    assert record.severity in range(25)
    assert 0 <= record.ts_ns < 2**63
    batch = to_batch([record, record], NOW)
    (attributes,) = batch.attributes.values
    assert isinstance(json.loads(attributes, parse_constant=_refuse), dict)
    assert batch.FromString(batch.SerializeToString()) == batch


def _refuse(text: str) -> Any:
    raise AssertionError(f"{text} is no JSON")


@given(st.dictionaries(st.text(min_size=1), JSON))
def test_attributes_of_anything_are_json(attributes: dict[str, Any]) -> None:
    batch = to_batch([Record("x", attributes=attributes)], NOW)
    (text,) = batch.attributes.values
    assert isinstance(json.loads(text, parse_constant=_refuse), dict)


@given(st.lists(st.sampled_from(("a", "b", "c", "\ud800", "")), min_size=1, max_size=12))
def test_columns_are_what_they_were(texts: list[str]) -> None:
    column = to_batch([Record(text, service=text) for text in texts], NOW).service
    found = [column.values[place] for place in column.indices] if column.indices else list(column.values)
    if len(found) == 1:
        found *= len(texts)
    assert found == [text.replace("\ud800", "?") for text in texts]
