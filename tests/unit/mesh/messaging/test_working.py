from __future__ import annotations

import asyncio

import pytest

from mesh.context import CallContext, annotate, current, entered
from mesh.messaging import consuming, extract, inject, producing, recording
from mesh.telemetry.spans import CONSUMER, ERROR, PRODUCER, SpanLink, SpanRecord
from mesh.testing import ManualClock

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALL = CallContext("order-42", TRACE, SPAN, deadline=12.0)


def test_a_message_that_is_sent_is_a_span_of_the_call_that_sends_it() -> None:
    spans: list[SpanRecord] = []
    headers: dict[str, str] = {}
    with (
        recording(spans.append),
        entered(CALL),
        producing(headers, destination="orders.placed", system="kafka") as sent,
    ):
        assert current() is CALL
    assert spans == [sent]
    assert (sent.kind, sent.name, sent.status_message) == (PRODUCER, "send orders.placed", "")
    assert (sent.trace_id, sent.parent_span_id, sent.correlation_id) == (TRACE, SPAN, "order-42")
    assert sent.span_id not in ("", SPAN)
    assert extract(headers).span_id == sent.span_id
    assert sent.attributes == {
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders.placed",
        "messaging.system": "kafka",
    }


def test_the_work_on_a_message_is_a_trace_of_its_own_that_links_to_its_origin() -> None:
    headers = inject(context=CALL)
    with consuming(headers, destination="orders.placed") as work:
        inside = current()
        assert inside == CallContext("order-42", work.trace_id, work.span_id)
    assert current() is None
    assert work.kind is CONSUMER
    assert work.trace_id != TRACE
    assert work.parent_span_id == ""
    assert work.links == (SpanLink(TRACE, SPAN),)


def test_what_is_said_of_the_work_is_in_its_span() -> None:
    with consuming({}, destination="orders.placed") as work:
        annotate("order.id", "7")
    assert work.attributes["order.id"] == "7"
    assert work.attributes["messaging.destination.name"] == "orders.placed"


def test_in_parent_mode_the_work_goes_on_in_the_trace() -> None:
    headers = inject(context=CALL) | {"tracestate": "a=1", "baggage": "user=7"}
    with consuming(headers, parent=True) as work:
        onward = extract(inject())
    assert (work.trace_id, work.parent_span_id, work.links) == (TRACE, SPAN, ())
    assert (onward.trace_id, onward.tracestate, onward.baggage) == (TRACE, "a=1", "user=7")


def test_a_new_trace_takes_the_baggage_with_it_and_not_the_tracestate() -> None:
    headers = inject(context=CALL) | {"tracestate": "a=1", "baggage": "user=7"}
    with consuming(headers):
        onward = extract(inject())
    assert (onward.correlation_id, onward.tracestate, onward.baggage) == ("order-42", "", "user=7")
    assert extract(inject()).baggage == ""


def test_a_message_that_says_nothing_begins_a_conversation() -> None:
    with consuming(None) as first, consuming({}) as second:
        assert first.correlation_id != second.correlation_id
    assert first.links == ()


def test_a_message_made_outside_of_any_call_begins_both() -> None:
    headers: list[tuple[str, bytes]] = []
    with producing(headers) as sent:
        assert current() is None
    assert sent.parent_span_id == ""
    assert extract(headers).trace_id == sent.trace_id
    with producing({"x-correlation-id": "order-7"}) as known:
        pass
    assert known.correlation_id == "order-7"


def test_an_error_goes_on_and_is_the_spans() -> None:
    spans: list[SpanRecord] = []
    clock = ManualClock()

    def work() -> None:
        with consuming({}, clock=clock):
            clock.advance(1.5)
            raise ValueError("no such sku")

    with recording(spans.append), pytest.raises(ValueError, match="no such sku"):
        work()
    (span,) = spans
    assert span.status_message == "ValueError: no such sku"
    assert span.status == ERROR
    assert span.attributes["error.type"] == "ValueError"
    assert span.end_ns - span.start_ns == 1_500_000_000
    with recording(spans.append), pytest.raises(asyncio.CancelledError), producing({}):
        raise asyncio.CancelledError
    assert spans[-1].status_message == "cancelled"


async def test_messages_worked_on_at_a_time_do_not_mix() -> None:
    async def work(name: str) -> list[str]:
        with consuming({"x-correlation-id": name}):
            seen = []
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(extract(inject()).correlation_id)
            return seen

    names = [f"order-{number}" for number in range(20)]
    assert await asyncio.gather(*map(work, names)) == [[name] * 3 for name in names]
