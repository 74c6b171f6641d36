from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import correlation
from mesh.testing import ManualClock
from proxy.call.call import Call
from proxy.call.interceptor import Interceptor
from proxy.call.pipeline import Pipeline
from proxy.call.reason import Reason, Reject
from proxy.interceptors.access_log import AccessLog, line
from proxy.interceptors.correlation import Correlation
from proxy.interceptors.deadline import Deadline, DeadlineOptions
from proxy.interceptors.metrics import BUCKETS, Metrics
from proxy.stack import Stack, StackOptions, ignore_errors
from tests.unit.proxy.helpers import GET, begin, dispatcher


def call_with(*metadata: tuple[bytes, bytes], now: float = 1000.0) -> Call:
    return Call(GET, metadata, "peer", "internal", now)


def test_a_well_formed_correlation_id_is_kept_and_sent_both_ways() -> None:
    call = call_with((b"x-correlation-id", b"order-42"), (b"k", b"v"))
    Correlation().on_request(call)
    assert call.correlation_id == b"order-42"
    assert call.request_metadata() == [(b"k", b"v"), (b"x-correlation-id", b"order-42")]
    assert call.reply_metadata == ((b"x-correlation-id", b"order-42"),)


@given(st.binary(max_size=200))
def test_whatever_comes_the_id_is_well_formed_and_there_is_one(value: bytes) -> None:
    call = call_with((b"x-correlation-id", value), (b"x-correlation-id", value))
    Correlation().on_request(call)
    assert correlation.well_formed(call.correlation_id)
    assert (call.correlation_id == value) == correlation.well_formed(value)
    names = [name for name, _ in call.request_metadata()]
    assert names.count(b"x-correlation-id") == 1


def test_without_an_id_the_trace_id_serves() -> None:
    trace = b"4bf92f3577b34da6a3ce929d0e0e4736"
    call = call_with((b"traceparent", b"00-" + trace + b"-00f067aa0ba902b7-01"))
    Correlation().on_request(call)
    assert call.correlation_id == trace


def test_deadline_from_the_header() -> None:
    clock = ManualClock()
    call = call_with((b"grpc-timeout", b"250m"), now=clock.now())
    Deadline(clock, DeadlineOptions()).on_request(call)
    assert call.deadline == clock.now() + 0.25


def test_deadlines_are_capped_and_given() -> None:
    clock = ManualClock()
    long = call_with((b"grpc-timeout", b"9H"), now=clock.now())
    none = call_with(now=clock.now())
    capped = Deadline(clock, DeadlineOptions(max_seconds=30))
    capped.on_request(long)
    capped.on_request(none)
    assert long.deadline == none.deadline == clock.now() + 30
    given_one = call_with(now=clock.now())
    Deadline(clock, DeadlineOptions(default_seconds=5)).on_request(given_one)
    assert given_one.deadline == clock.now() + 5


def test_without_a_header_or_options_there_is_no_deadline() -> None:
    call = call_with()
    Deadline(ManualClock(), DeadlineOptions()).on_request(call)
    assert call.deadline is None


@pytest.mark.parametrize(("value", "reason"), [(b"0n", Reason.DEADLINE_EXCEEDED), (b"1x", Reason.MALFORMED_REQUEST)])
def test_deadlines_that_refuse_a_call(value: bytes, reason: Reason) -> None:
    clock = ManualClock()
    with pytest.raises(Reject) as refusal:
        Deadline(clock, DeadlineOptions()).on_request(call_with((b"grpc-timeout", value), now=clock.now()))
    assert refusal.value.reason is reason


def test_metrics_count_by_service_method_and_code() -> None:
    clock, metrics = ManualClock(), Metrics()
    made = dispatcher(metrics, clock=clock)
    for status, seconds in ((0, 0.003), (0, 99.0), (5, 0.0)):
        call = begin(made)
        made.admit(call)
        assert metrics.calls_in_flight == 1
        clock.advance(seconds)
        call.bytes_in, call.bytes_out = 10, 20
        call.finish(status)
        made.end(call)
    unknown = begin(made, b"/no.Such/Thing")
    with pytest.raises(Reject) as refusal:
        made.admit(unknown)
    unknown.reject(refusal.value)
    made.end(unknown)
    (listener, stats), (_, other) = metrics.snapshot()
    assert (listener, stats.service, stats.method) == ("internal", "orders", "shop.v1.Orders/Get")
    assert stats.codes == {0: 2, 5: 1}
    assert (stats.bytes_in, stats.bytes_out, stats.in_flight) == (30, 60, 0)
    assert sum(stats.slots) == 3
    assert stats.slots[BUCKETS.index(0.005)] == 1
    assert stats.slots[-1] == 1
    assert stats.seconds == pytest.approx(99.003)
    assert (other.service, other.codes, other.reasons) == ("_unknown", {12: 1}, {"no_route": 1})
    assert metrics.calls_total == 4


def test_the_access_log_tells_the_story_of_a_call() -> None:
    clock = ManualClock()
    log = AccessLog(clock)
    made = dispatcher(Correlation(), log, clock=clock)
    call = begin(made, GET, (b"x-correlation-id", b"c-1"))
    made.admit(call)
    made.next_endpoint(call)
    call.deadline = call.started_at + 2
    clock.advance(0.25)
    call.request_ended_at = made.now()
    clock.advance(0.5)
    made.on_response(call)
    made.end_attempt(call, 5, "no such order")
    made.end(call)
    ((ended_ns, noted),) = log.take()
    assert json.loads(line(ended_ns, noted)) == {
        "ts": pytest.approx(1_700_000_000.75),
        "correlation_id": "c-1",
        "listener": "internal",
        "peer": "ipv4:127.0.0.1:5",
        "method": "/shop.v1.Orders/Get",
        "service": "orders",
        "instance": "orders-1",
        "endpoint": "127.0.0.1:10001",
        "code": "NOT_FOUND",
        "message": "no such order",
        "duration_ms": 750.0,
        "upstream_ms": 500.0,
        "deadline_ms": 2000.0,
        "bytes_in": 0,
        "bytes_out": 0,
        "attempts": 1,
    }
    assert log.take() == []


@given(st.binary(max_size=300), st.text(max_size=100), st.text(max_size=50), st.integers(0, 20))
def test_whatever_clients_and_upstreams_say_a_line_is_one_json_object(
    method: bytes, message: str, peer: str, status: int
) -> None:
    call = Call(method, (), peer, "public", 1.0)
    call.correlation_id = b"c"
    call.finish(status, message, Reason.NO_ROUTE)
    text = line(5, call)
    assert "\n" not in text
    read = json.loads(text)
    assert (read["peer"], read.get("message", "")) == (peer, message)
    assert read["method"] == method.decode("ascii", "backslashreplace")


def test_a_full_access_log_drops_and_counts() -> None:
    log = AccessLog(ManualClock(), capacity=2)
    for _ in range(5):
        log.on_end(call_with())
    assert len(log.take()) == 2
    assert log.dropped == 3
    log.on_end(call_with())
    assert len(log.take()) == 1


class Recorder(Interceptor):
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self._seen = seen

    def on_request(self, call: Call) -> None:
        self._seen.append(f"{self.name} in")

    def on_end(self, call: Call) -> None:
        self._seen.append(f"{self.name} out")


def test_hooks_run_in_order_and_back() -> None:
    seen: list[str] = []
    pipeline = Pipeline([Recorder("a", seen), Recorder("b", seen)], ignore_errors)
    pipeline.on_request(call_with())
    pipeline.on_end(call_with())
    assert seen == ["a in", "b in", "b out", "a out"]


def test_hooks_that_are_not_defined_are_not_called() -> None:
    pipeline = Pipeline([Correlation()], ignore_errors)
    assert pipeline._end == pipeline._response == pipeline._attempt_end == ()
    assert pipeline._admits is None


def test_a_broken_observer_keeps_nobody_from_the_end() -> None:
    seen: list[str] = []
    errors: list[BaseException] = []

    class Broken(Interceptor):
        def on_end(self, call: Call) -> None:
            raise ValueError("broken")

    pipeline = Pipeline([Recorder("a", seen), Broken()], lambda _call, error: errors.append(error))
    pipeline.on_end(call_with())
    assert seen == ["a out"]
    assert [str(error) for error in errors] == ["broken"]


def test_asynchronous_hooks_are_awaited_in_their_place() -> None:
    seen: list[str] = []

    class Slow(Interceptor):
        async def on_request(self, call: Call) -> None:
            seen.append("slow in")

    pipeline = Pipeline([Recorder("a", seen), Slow(), Recorder("b", seen)], ignore_errors)
    assert pipeline.is_async
    asyncio.run(pipeline.on_request_async(call_with()))
    assert seen == ["a in", "slow in", "b in"]


def test_the_stack_is_in_its_order() -> None:
    stack = Stack(ManualClock(), StackOptions(), ignore_errors)
    assert stack.routed.names == ("correlation", "access_log", "metrics", "deadline", "breaker")
    assert stack.local.names == ("correlation", "access_log", "metrics")
