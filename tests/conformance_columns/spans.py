"""Spans for the suite of the trace sink, and what a scan of all of them finds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from mesh.api.logsink.v1 import TextColumn
from mesh.api.tracesink.v1 import SpanBatch
from mesh.testing.clock import ManualClock
from services.sinks.messages import Fields, fields_of

SECOND = 1_000_000_000
MS = 1_000_000
NOW = ManualClock().wall_ns()
TRACES = ("0af7651916cd43dd8448eb211c80319c", "1" * 32, "2" * 32)
INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = range(1, 6)
OK, ERROR = 1, 2


def span_id(number: int) -> str:
    return f"{number:016x}" if number else ""


def span(number: int, parent: int = 0, start: int = 0, end: int = 10, **more: Any) -> dict[str, Any]:
    """Return a span by the number of its id and its parent's, from `start` to `end` in ms after now."""
    return {
        "trace_id": TRACES[0],
        "span_id": span_id(number),
        "parent_span_id": span_id(parent),
        "start_ns": NOW + start * MS,
        "end_ns": NOW + end * MS,
    } | more


def batch(rows: Sequence[dict[str, Any]]) -> SpanBatch:
    """Return rows as columns: texts with indices where they repeat."""

    def column(name: str, default: str = "") -> TextColumn:
        texts = [str(row.get(name, default)) for row in rows]
        distinct = sorted(set(texts))
        if len(distinct) == 1:
            return TextColumn(values=distinct)
        if len(distinct) < len(texts):
            return TextColumn(values=distinct, indices=[distinct.index(text) for text in texts])
        return TextColumn(values=texts)

    names = (
        *("trace_id", "span_id", "parent_span_id", "name", "status_message", "service", "instance", "version"),
        *("scope", "correlation_id", "rpc_method", "rpc_status_code", "peer_service", "trace_state"),
        *("attributes", "events", "links"),
    )
    texts: dict[str, Any] = {name: column(name) for name in names}
    numbers: dict[str, Any] = {
        name: [row.get(name, 0) for row in rows] for name in ("kind", "status", "flags", "dropped")
    }
    return SpanBatch(
        start_ns=[row["start_ns"] for row in rows], end_ns=[row["end_ns"] for row in rows], **texts, **numbers
    )


def sent_fields(rows: Sequence[dict[str, Any]]) -> Fields:
    """Return the same as a sink has it."""
    return fields_of(batch(rows))


ROW: Any = st.builds(
    lambda start, length, **more: {**more, "start_ns": start, "end_ns": start + length},
    st.integers(-20, 20).map(lambda steps: NOW + steps * 300 * SECOND),
    st.integers(0, 4).map(lambda steps: steps * 250 * SECOND),
    trace_id=st.sampled_from(TRACES),
    span_id=st.integers(1, 12).map(span_id),
    parent_span_id=st.integers(0, 12).map(span_id),
    name=st.sampled_from(("shop.v1.Orders/Get", "shop.v1.Orders/Place", "Get", "query", "größe 'x'")),
    rpc_method=st.sampled_from(("", "shop.v1.Orders/Get", "shop.v1.Stock/Reserve")),
    kind=st.sampled_from((0, INTERNAL, SERVER, CLIENT)),
    status=st.sampled_from((0, OK, ERROR)),
    rpc_status_code=st.sampled_from(("", "OK", "UNAVAILABLE", "CANCELLED", "NOT_FOUND")),
    service=st.sampled_from(("orders", "payments", "mesh-edge", "")),
    instance=st.sampled_from(("a-1", "a-2")),
    peer_service=st.sampled_from(("", "", "stock", "payments")),
    correlation_id=st.sampled_from(("", "c1", "c2")),
    attributes=st.sampled_from(("{}", '{"order.id":"7"}', '{"n":7,"resource.host":"h"}', '{"n":null,"k":"ü"}')),
)

FILTER: Any = st.fixed_dictionaries(
    {},
    optional={
        "start_ns": st.integers(-20, 20).map(lambda steps: NOW + steps * 300 * SECOND),
        "end_ns": st.integers(-20, 21).map(lambda steps: NOW + steps * 300 * SECOND + 1),
        "correlation_id": st.sampled_from(("c1", "c2", TRACES[0], "none")),
        "trace_id": st.sampled_from((*TRACES, "f" * 32)),
        "services": st.lists(st.sampled_from(("orders", "payments", "x")), max_size=2),
        "instances": st.lists(st.sampled_from(("a-1", "b")), max_size=2),
        "method": st.sampled_from(("Get", "Orders/Get", "shop.v1.Orders/Get", "/shop.v1.Stock/Reserve", "et", "%")),
        "min_duration_ns": st.sampled_from((1, 500 * SECOND)),
        "max_duration_ns": st.sampled_from((500 * SECOND, 750 * SECOND)),
        "errors": st.booleans(),
        "codes": st.lists(st.sampled_from(("OK", "UNAVAILABLE", "not_found")), max_size=2),
        "attributes": st.dictionaries(
            st.sampled_from(("order.id", "n", "k", "none")), st.sampled_from(("", "7", "ü")), max_size=2
        ),
    },
)


def complete(filter_: dict[str, Any], *, ranged: bool = False) -> dict[str, Any]:
    """Return the filter with the time range that it needs."""
    if ranged or ("correlation_id" not in filter_ and "trace_id" not in filter_):
        filter_ = {"start_ns": NOW - 20 * 300 * SECOND, "end_ns": NOW + 21 * 300 * SECOND} | filter_
    if filter_.get("end_ns", 2**63) <= filter_.get("start_ns", 0):
        filter_["start_ns"], filter_["end_ns"] = filter_["end_ns"] - 1, filter_["start_ns"] + 1
    return filter_


def failed(row: dict[str, Any]) -> bool:
    return row["status"] == ERROR or row["rpc_status_code"] not in ("", "OK", "CANCELLED")


def matches(row: dict[str, Any], filter_: dict[str, Any]) -> bool:
    """Say by Python alone whether a filter means a span."""
    tree = json.loads(row["attributes"])

    def has(name: str, value: str) -> bool:
        found = tree.get(name)
        if found is None:
            return False
        return not value or (found if isinstance(found, str) else json.dumps(found)) == value

    def called(text: str, method: str) -> bool:
        return text == method or text.endswith((f".{method}", f"/{method}"))

    correlation = row["correlation_id"] or row["trace_id"]
    method = filter_.get("method", "").removeprefix("/")
    duration = row["end_ns"] - row["start_ns"]
    return all(
        (
            row["start_ns"] >= filter_.get("start_ns", 0),
            row["start_ns"] < filter_.get("end_ns", 2**63),
            "correlation_id" not in filter_ or correlation == filter_["correlation_id"],
            "trace_id" not in filter_ or row["trace_id"] == filter_["trace_id"],
            not filter_.get("services") or row["service"] in filter_["services"],
            not filter_.get("instances") or row["instance"] in filter_["instances"],
            not method or called(row["name"], method) or called(row["rpc_method"], method),
            duration >= filter_.get("min_duration_ns", 0),
            duration <= filter_.get("max_duration_ns", 2**63),
            not filter_.get("errors") or failed(row),
            not filter_.get("codes") or row["rpc_status_code"] in [code.upper() for code in filter_["codes"]],
            all(has(name, value) for name, value in filter_.get("attributes", {}).items()),
        )
    )
