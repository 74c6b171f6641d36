from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from mesh.api.logsink.v1 import TextColumn
from mesh.api.tracesink.v1 import SpanBatch
from mesh.errors import UsageError
from mesh.telemetry import spans
from mesh.telemetry.sampling import Sampler, TracingOptions, has_failed
from mesh.telemetry.spans import SpanEvent, SpanLink, SpanRecord, to_span_batch

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def texts(column: TextColumn, count: int) -> list[str]:
    values = list(column.values)
    if column.indices:
        return [values[index] for index in column.indices]
    return values if len(values) == count else values * count or [""] * count


def batch_of(records: Sequence[SpanRecord]) -> SpanBatch:
    """Return the batch as it comes out on the other side."""
    return SpanBatch.FromString(to_span_batch(records).SerializeToString())


def test_every_field_is_in_its_column() -> None:
    one = SpanRecord(
        trace_id=TRACE,
        span_id="a" * 16,
        name="shop.v1.Orders/Get",
        start_ns=5,
        end_ns=9,
        kind=spans.SERVER,
        parent_span_id="b" * 16,
        status=spans.ERROR,
        status_message="away",
        service="orders",
        instance="orders-1",
        version="2",
        scope="mesh",
        correlation_id="order-42",
        rpc_method="shop.v1.Orders/Get",
        rpc_status_code="UNAVAILABLE",
        peer_service="stock",
        trace_state="a=b",
        attributes={"order.id": 42},
        events=(SpanEvent(7, 'again "', {"n": 2}),),
        links=(SpanLink(TRACE, "c" * 16),),
        dropped=3,
    )
    other = SpanRecord(TRACE, "d" * 16, "work", 1, 2)
    batch = batch_of([one, other])
    assert (list(batch.start_ns), list(batch.end_ns)) == ([5, 1], [9, 2])
    assert (list(batch.kind), list(batch.status)) == ([spans.SERVER, spans.INTERNAL], [spans.ERROR, spans.UNSET])
    assert (list(batch.flags), list(batch.dropped)) == ([1, 1], [3, 0])
    for name in ("trace_id", "span_id", "name", "parent_span_id", "status_message", "service", "instance", "version"):
        assert texts(getattr(batch, name), 2) == [getattr(one, name), getattr(other, name)], name
    for name in ("scope", "correlation_id", "rpc_method", "rpc_status_code", "peer_service", "trace_state"):
        assert texts(getattr(batch, name), 2) == [getattr(one, name), getattr(other, name)], name
    assert [json.loads(text) for text in texts(batch.attributes, 2)] == [{"order.id": 42}, {}]
    first, second = texts(batch.events, 2)
    assert json.loads(first) == [{"ts_ns": 7, "name": 'again "', "attributes": {"n": 2}}]
    assert second == ""
    (link,) = json.loads(texts(batch.links, 2)[0])
    assert link == {"trace_id": TRACE, "span_id": "c" * 16, "trace_state": "", "attributes": {}}


def test_texts_that_repeat_are_written_once() -> None:
    batch = to_span_batch([SpanRecord(TRACE, f"{n:016x}", "shop.v1.Orders/Get", n, n + 1) for n in range(100)])
    assert (len(batch.trace_id.values), len(batch.name.values), len(batch.span_id.values)) == (1, 1, 100)


def test_what_no_encoding_has_and_what_is_too_much_does_no_harm() -> None:
    fits = 32  # of these events in a quarter of a million characters
    much = SpanRecord(
        TRACE,
        "a" * 16,
        "half \ud800",
        1,
        2,
        status_message="x" * 10_000,
        events=[SpanEvent(n, "half \ud800", {"text": "y" * (8_000 if n else 10_000)}) for n in range(200)],
        links=[SpanLink(TRACE, "b" * 16)] * (spans.MAX_LINKS + 1),
        dropped=1,
    )
    batch = batch_of([much])
    assert len(batch.status_message.values[0]) == spans.MAX_MESSAGE
    events = json.loads(batch.events.values[0])
    assert events[0]["attributes"] == {"mesh.cut_characters": 10_011}
    assert len(events) == fits + 1
    assert len(batch.events.values[0].encode()) <= 1 << 20
    assert len(json.loads(batch.links.values[0])) == spans.MAX_LINKS
    assert list(batch.dropped) == [1 + 200 - len(events) + 1]
    many = SpanRecord(TRACE, "a" * 16, "small", 1, 2, events=[SpanEvent(1, "e")] * (spans.MAX_EVENTS + 5))
    assert list(batch_of([many]).dropped) == [5]


def test_failures_and_slow_calls_are_kept_whatever_was_decided_at_the_begin() -> None:
    sampler = Sampler(TracingOptions(sample=0, slow_seconds=0.5))
    assert not sampler.begins(TRACE.encode())
    assert not sampler.keeps(sampled=False, failed=False, duration_ns=499_999_999)
    assert sampler.keeps(sampled=False, failed=False, duration_ns=500_000_000)
    assert sampler.keeps(sampled=False, failed=True, duration_ns=1)
    assert sampler.keeps(sampled=True, failed=False, duration_ns=1)
    assert [code for code in range(17) if not has_failed(code)] == [0, 1]


@pytest.mark.parametrize("wrong", [{"sample": -0.1}, {"sample": 1.1}, {"slow_seconds": 0}, {"slow_seconds": 1e9}])
def test_options_make_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"tracing\."):
        TracingOptions(**wrong)
