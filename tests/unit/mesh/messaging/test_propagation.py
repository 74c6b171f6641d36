from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import correlation
from mesh.context import CallContext, entered
from mesh.messaging import Incoming, extract, inject

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
CONTEXT = CallContext("order-42", TRACE, SPAN)
FROM_PRODUCER = Incoming("order-42", TRACE, SPAN, sampled=True)

SHAPES: list[Any] = [
    {"x-correlation-id": "order-42", "traceparent": PARENT},
    {"X-Correlation-ID": "order-42", "Traceparent": PARENT},
    {"x-correlation-id": b"order-42", "traceparent": PARENT.encode()},
    {b"x-correlation-id": b"order-42", b"TRACEPARENT": PARENT.encode()},
    {"x-correlation-id": ["order-42"], "traceparent": [PARENT]},
    [("x-correlation-id", b"order-42"), ("traceparent", PARENT.encode())],
    [("other", None), ("x-correlation-id", "order-42"), ["traceparent", memoryview(PARENT.encode())]],
]


@pytest.mark.parametrize("headers", SHAPES)
def test_headers_of_any_broker_are_read(headers: Any) -> None:
    assert extract(headers) == FROM_PRODUCER


@pytest.mark.parametrize("headers", [{}, [], [("k", b"v")], {b"k": b"v"}, {"k": b"v"}, {"k": "v"}, {"k": 7}])
def test_what_is_written_is_read(headers: Any) -> None:
    assert inject(headers, CONTEXT) is headers
    assert extract(headers) == FROM_PRODUCER


def test_headers_are_written_as_each_broker_has_them() -> None:
    assert inject(None, CONTEXT) == {"x-correlation-id": "order-42", "traceparent": PARENT}
    assert inject([], CONTEXT) == [("x-correlation-id", b"order-42"), ("traceparent", PARENT.encode())]
    assert inject([("k", "v")], CONTEXT)[1:] == [("x-correlation-id", "order-42"), ("traceparent", PARENT)]
    assert (b"x-correlation-id", b"order-42") in inject([(b"k", b"v")], CONTEXT)


def test_a_message_that_is_passed_on_has_one_trace_and_keeps_its_conversation() -> None:
    other = f"00-{'a' * 32}-{'b' * 16}-01"
    forwarded = {"Traceparent": other, "X-Correlation-Id": "order-7", "TraceState": "old=1", "k": "v"}
    inject(forwarded, CONTEXT)
    assert {name.lower() for name in forwarded} == {"x-correlation-id", "traceparent", "tracestate", "k"}
    assert len(forwarded) == 4
    assert extract(forwarded).trace_id == TRACE
    assert extract(forwarded).correlation_id == "order-7"


def test_names_that_match_replies_are_left_alone() -> None:
    headers: dict[str, str] = {"correlation_id": "reply-1", "correlation-id": "reply-2", "Correlation-Data": "reply-3"}
    before = dict(headers)
    assert extract(headers) == Incoming()
    inject(headers, CONTEXT)
    assert {name: headers[name] for name in before} == before


def test_outside_of_a_call_a_message_begins_a_conversation() -> None:
    headers = inject()
    assert correlation.well_formed(headers["x-correlation-id"].encode())
    assert list(headers) == ["x-correlation-id"]
    with entered(CONTEXT):
        assert extract(inject()) == FROM_PRODUCER


def test_a_call_that_is_not_sampled_says_so() -> None:
    context = CallContext("c", TRACE, SPAN, sampled=False)
    assert inject(context=context)["traceparent"].endswith("-00")
    assert not extract(inject(context=context)).sampled


MALFORMED: list[Any] = [
    None,
    {},
    [("traceparent",), 7, ("traceparent", b"x", 3)],
    {"x-correlation-id": None, "traceparent": 7},
    {"x-correlation-id": "", "traceparent": ""},
    {"x-correlation-id": "x" * 129},
    {"x-correlation-id": "a\nb"},
    {"x-correlation-id": "ä"},
    {"x-correlation-id": b"\xff\xfe"},
    {"x-correlation-id": "x" * 10_000_000},
    {"x-correlation-id": {"nested": "table"}},
    {"traceparent": PARENT.upper()},
    {"traceparent": PARENT[:-1]},
    {"traceparent": f"ff{PARENT[2:]}"},
    {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
    {"traceparent": f"00-{TRACE}-{'0' * 16}-01"},
    # Which one is meant?
    {"traceparent": [PARENT, f"00-{'a' * 32}-{'b' * 16}-01"]},
    # More than anybody reads.
    [*((f"h{number}", b"") for number in range(256)), ("x-correlation-id", b"late")],
]


@pytest.mark.parametrize("headers", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_malformed_is_as_if_it_were_not_there(headers: Any) -> None:
    assert extract(headers) == Incoming()


def test_lists_that_are_too_long_or_unprintable_are_dropped_whole() -> None:
    kept = extract({"traceparent": PARENT, "tracestate": ["a=1", "b=2"], "baggage": "user=7"})
    assert (kept.tracestate, kept.baggage) == ("a=1,b=2", "user=7")
    dropped = extract({"traceparent": PARENT, "tracestate": "a=" + "1" * 511, "baggage": "user=\x07"})
    assert (dropped.tracestate, dropped.baggage) == ("", "")
    # W3C: without a traceparent a tracestate says nothing.
    assert extract({"tracestate": "a=1"}) == Incoming()


_anything = st.one_of(st.text(), st.binary(), st.none(), st.integers(), st.lists(st.one_of(st.text(), st.binary())))
_names = st.one_of(st.sampled_from(["traceparent", "X-Correlation-Id", "baggage", b"tracestate"]), _anything)


@given(st.lists(st.tuples(_names, _anything)))
def test_no_headers_raise_and_what_is_read_is_well_formed(headers: list[tuple[Any, Any]]) -> None:
    found = extract(headers)
    assert found.correlation_id == "" or correlation.well_formed(found.correlation_id.encode())
    assert len(found.trace_id) in (0, 32)
    inject(headers, CONTEXT)
    assert extract(headers[-4:]).trace_id == TRACE
