"""OpenTelemetry's exports read by columns are what a plain loop over its own messages makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from services.logsink import otlp as logs
from services.sinks import otlp, values
from services.storage.columns.base import BatchError
from services.tracesink import otlp as traces
from services.tracesink.semantics import CORRELATION, ROLES, promoted

ROOT = Path(__file__).resolve().parents[4]
NOW = 1_767_268_800 * 10**9
CORRELATIONS = ("correlation_id", "correlation.id", "x-correlation-id")
TEXTS = st.sampled_from(["", "a", "ü🦆", 'q"uo\\te', "line\nbreak\x01", "\x7f", "14", "/a.B/c", "a\x00z"]) | st.text()
KEYS = st.sampled_from([*ROLES, "order.id", "", 'k"ey', "service.name", "service.instance.id", "service.version"])
VALUES: st.SearchStrategy[AnyValue] = st.recursive(
    st.builds(AnyValue, string_value=TEXTS)
    | st.builds(AnyValue)
    | st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1))
    | st.builds(AnyValue, bool_value=st.booleans())
    | st.builds(AnyValue, double_value=st.floats())
    | st.builds(AnyValue, bytes_value=st.binary(max_size=5)),
    lambda inner: (
        st.builds(AnyValue, array_value=st.builds(ArrayValue, values=st.lists(inner, max_size=3)))
        | st.builds(
            AnyValue,
            kvlist_value=st.builds(
                KeyValueList, values=st.lists(st.builds(KeyValue, key=KEYS, value=inner), max_size=3)
            ),
        )
    ),
    max_leaves=4,
)
ATTRIBUTES = st.lists(st.builds(KeyValue, key=KEYS, value=VALUES), max_size=5)
IDS = {size: st.sampled_from([b"", bytes(size), b"\x01" * size, bytes(range(size))]) for size in (8, 16)}
RECORDS = st.builds(
    LogRecord,
    time_unix_nano=st.just(NOW),
    severity_number=st.integers(0, 24),
    severity_text=TEXTS,
    body=VALUES,
    attributes=ATTRIBUTES,
    trace_id=IDS[16],
    span_id=IDS[8],
    event_name=TEXTS,
    flags=st.integers(0, 2**32 - 1),
)
SPANS = st.builds(
    Span,
    trace_id=IDS[16],
    span_id=IDS[8],
    parent_span_id=IDS[8],
    name=TEXTS,
    kind=st.sampled_from(range(6)),
    start_time_unix_nano=st.just(NOW),
    end_time_unix_nano=st.just(NOW + 5),
    attributes=ATTRIBUTES,
    events=st.lists(st.builds(Span.Event, name=TEXTS, attributes=ATTRIBUTES), max_size=2),
    links=st.lists(st.builds(Span.Link, trace_id=IDS[16], attributes=ATTRIBUTES), max_size=1),
)


def plain(value: AnyValue) -> Any:
    """Return a value as JSON has it, the simple way."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    found = getattr(value, kind)
    if kind == "kvlist_value":
        return {one.key: plain(one.value) for one in found.values}
    if kind == "array_value":
        return [plain(one) for one in found.values]
    if kind == "bytes_value":
        return found.hex()
    return str(found) if kind == "double_value" and not abs(found) < float("inf") else found


def text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def pairs(attributes: Any) -> list[tuple[str, Any]]:
    return [(one.key, plain(one.value)) for one in attributes]


def said(resource: Any, own: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return all members that a record's attributes have, as often as they are said."""
    common = dict(pairs(resource.attributes))
    for name in ("service.name", "service.instance.id", "service.version"):
        common.pop(name, None)
    return [(f"resource.{name}", value) for name, value in common.items()] + own


def members(row: dict[str, Any]) -> Any:
    """Return the attributes of a row, names that are said twice among them."""
    return json.loads(row["attributes"], object_pairs_hook=lambda found: found)


def as_pairs(value: Any) -> Any:
    return json.loads(json.dumps(value), object_pairs_hook=lambda found: found)


def service(resource: Any) -> str:
    return text(dict(pairs(resource.attributes)).get("service.name"))[:255]


@given(st.lists(st.tuples(ATTRIBUTES, st.lists(st.lists(RECORDS, max_size=3), max_size=2)), max_size=2))
def test_logs_are_what_a_loop_makes_of_them(groups: list[tuple[list[KeyValue], list[list[LogRecord]]]]) -> None:
    request = ExportLogsServiceRequest()
    for said_there, scopes in groups:
        group = ResourceLogs(scope_logs=[ScopeLogs(log_records=one) for one in scopes])
        group.resource.attributes.extend(said_there)
        request.resource_logs.append(group)
    read = logs.from_export(request.SerializeToString(), NOW)
    sent = [
        (group.resource, record)
        for group in request.resource_logs
        for scoped in group.scope_logs
        for record in scoped.log_records
    ]
    rows = read.table.to_pylist()
    assert (len(rows), read.absurd, read.cut) == (len(sent), 0, 0)
    for row, (resource, record) in zip(rows, sent, strict=True):
        own = pairs(record.attributes)
        ids = [text(value)[:255] for name, value in own if name in CORRELATIONS and text(value)]
        assert row["body"] == text(plain(record.body))
        assert members(row) == [(name, as_pairs(value)) for name, value in said(resource, own)]
        assert row["correlation_id"] == (ids[0] if ids else record.trace_id.hex())
        assert (row["trace_id"], row["span_id"]) == (record.trace_id.hex(), record.span_id.hex())
        assert (row["severity_text"], row["event_name"]) == (record.severity_text, record.event_name)
        assert (row["severity_number"], row["flags"]) == (record.severity_number, record.flags)
        assert row["service"] == service(resource)


@given(st.lists(st.tuples(ATTRIBUTES, st.lists(st.lists(SPANS, max_size=3), max_size=2)), max_size=2))
def test_spans_are_what_a_loop_makes_of_them(groups: list[tuple[list[KeyValue], list[list[Span]]]]) -> None:
    request = ExportTraceServiceRequest()
    for said_there, scopes in groups:
        group = ResourceSpans(scope_spans=[ScopeSpans(spans=one) for one in scopes])
        group.resource.attributes.extend(said_there)
        request.resource_spans.append(group)
    read = traces.from_export(request.SerializeToString(), NOW)
    sent = [
        (group.resource, span)
        for group in request.resource_spans
        for scoped in group.scope_spans
        for span in scoped.spans
    ]
    good = [(resource, span) for resource, span in sent if any(span.trace_id) and any(span.span_id)]
    rows = read.table.to_pylist()
    assert (len(rows), read.rejected, read.cut) == (len(good), len(sent) - len(good), 0)
    for row, (resource, span) in zip(rows, good, strict=True):
        own = pairs(span.attributes)
        ids = [
            text(value)[:255]
            for name, value in own + list(dict(pairs(resource.attributes)).items())
            if ROLES.get(name) == CORRELATION and text(value)
        ]
        known = promoted((ROLES[name], text(value)[:255]) for name, value in own if name in ROLES)
        assert members(row) == [(name, as_pairs(value)) for name, value in said(resource, own)]
        assert row["correlation_id"] == (ids[0] if ids else span.trace_id.hex())
        assert {name: row[name] for name in known._fields} == known._asdict()
        assert row["parent_span_id"] == (span.parent_span_id.hex() if any(span.parent_span_id) else "")
        assert (row["name"], row["kind"], row["service"]) == (span.name, span.kind, service(resource))
        assert [one["name"] for one in json.loads(row["events"])] == [event.name for event in span.events]
        assert [one["trace_id"] for one in json.loads(row["links"])] == [link.trace_id.hex() for link in span.links]


def one_log(*attributes: KeyValue) -> bytes:
    record = LogRecord(time_unix_nano=NOW, body=AnyValue(string_value="body"), attributes=attributes)
    return ExportLogsServiceRequest(
        resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=[record])])]
    ).SerializeToString()


WHOLE = one_log(KeyValue(key="order.id", value=AnyValue(string_value="ü7")), KeyValue(key="n", value=AnyValue()))


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=3), st.integers(1, len(WHOLE)))
@example([(len(WHOLE) - 1, 255)], len(WHOLE))
def test_what_is_no_export_is_refused_and_nothing_else_happens(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(WHOLE)
    for place, byte in changes:
        data[place] = byte
    try:
        table = logs.from_export(bytes(data[:length]), NOW).table
    except (DecodeError, BatchError):
        return
    for row in table.to_pylist():  # all of it is text, and JSON
        json.loads(row["attributes"])


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
def test_half_an_export_is_none(cut: int) -> None:
    with pytest.raises(DecodeError):
        logs.from_export(WHOLE[:cut], NOW)


DEEP = """
import sys
from google.protobuf.message import DecodeError
from mesh.api.logsink.v1 import PushRequest
from services.logsink import otlp as logs
from services.logsink.domain import Counters
from services.sinks.errors import InvalidError
from services.sinks.pushing import PushReader
from services.tracesink import otlp as traces

def field(number, data):
    size, length = len(data), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + data

def layered(*numbers):
    data = groups
    for number in reversed(numbers):
        data = field(number, data)
    return data

read = {
    "logs": lambda data: logs.from_export(data, 1),
    "traces": lambda data: traces.from_export(data, 1),
    "push": PushReader(PushRequest, Counters()).read,
}
groups = b"\x7b" * 3_000_000 + b"\x7c" * 3_000_000
ids = field(1, bytes(range(16))) + field(2, bytes(range(8)))
for kind, data in (
    *(("logs", layered(*path)) for path in ((), (1,), (1, 1), (1, 2), (1, 2, 1), (1, 2, 2), (1, 2, 2, 5))),
    *(("logs", layered(*path)) for path in ((1, 2, 2, 6), (1, 2, 2, 6, 2), (1, 2, 2, 6, 2, 5), (1, 2, 2, 6, 2, 6))),
    *(("traces", field(1, field(2, field(2, ids + layered(*path))))) for path in ((), (9,), (9, 2), (11,), (15,))),
    *(("push", layered(*path)) for path in ((), (4,), (4, 5))),
):
    try:
        read[kind](data)
    except (DecodeError, InvalidError):
        continue
    sys.exit(f"{kind} took {data[:30]}")
print("all refused")
"""


def test_groups_within_groups_are_refused() -> None:
    """They are tried by a process of their own: what overflows a stack ends it."""
    done = subprocess.run([sys.executable, "-c", DEEP], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "all refused\n"), done.stderr


def test_who_sets_two_fields_of_a_value_gets_one_of_them() -> None:
    data = one_log(KeyValue(key="k", value=AnyValue(string_value="text")))
    both = data.replace(b"\x0a\x04text", b"\x18\x05\x0a\x02te")
    assert len(both) == len(data)
    (row,) = logs.from_export(both, NOW).table.to_pylist()
    assert json.loads(row["attributes"]) == {"k": "te"}


@pytest.mark.parametrize("layer", ["resources", "scopes", "records", "attributes"])
def test_there_may_not_be_too_many(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "MAX_ITEMS", 3)
    monkeypatch.setattr(values, "MAX_ATTRIBUTES", 3)
    several = {name: 4 if name == layer else 1 for name in ("resources", "scopes", "records", "attributes")}
    record = LogRecord(attributes=[KeyValue(key="k")] * several["attributes"])
    scoped = ScopeLogs(log_records=[record] * several["records"])
    group = ResourceLogs(scope_logs=[scoped] * several["scopes"])
    request = ExportLogsServiceRequest(resource_logs=[group] * several["resources"])
    with pytest.raises(BatchError, match=f"at most 3 {layer}, this one 4"):
        logs.from_export(request.SerializeToString(), NOW)


def test_a_small_message_cannot_become_a_large_table() -> None:
    group = ResourceLogs(scope_logs=[ScopeLogs(log_records=[LogRecord()] * 100_000)])
    group.resource.attributes.add(key="k").value.string_value = "x" * 10_000
    with pytest.raises(BatchError, match=r"the attributes come to 95\d MiB and 512 are taken"):
        logs.from_export(ExportLogsServiceRequest(resource_logs=[group]).SerializeToString(), NOW)
