"""Trace contexts at the edge, and the spans that are made of its calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import correlation, tracing
from mesh.api.logsink.v1 import TextColumn
from mesh.resilience import outcome
from mesh.resilience.breaker import BreakerOptions
from mesh.telemetry.sampling import Sampler, TracingOptions
from mesh.telemetry.spans import ERROR, SERVER, UNSET
from mesh.testing import ManualClock
from proxy.admin.shipping import access_batch
from proxy.admin.spans import kept, span_batch
from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.call.limits import Limits
from proxy.call.reason import Reason, Reject
from proxy.interceptors.access_log import line
from proxy.policy.document import read
from proxy.stack import Stack, StackOptions, ignore_errors
from tests.unit.proxy.helpers import GET, ORDERS, begin, directory, instance, table

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
SAMPLED = b"00-" + TRACE + b"-" + SPAN + b"-01"
NOT_SAMPLED = SAMPLED[:-1] + b"0"
ALL, NONE = TracingOptions(), TracingOptions(sample=0)


class Rig:
    """A dispatcher with the stack of an edge that traces."""

    def __init__(self, options: TracingOptions = ALL, *, breaker: BreakerOptions | None = None) -> None:
        self.clock = ManualClock()
        breaker = breaker or BreakerOptions()
        self.stack = Stack(self.clock, StackOptions(breaker, tracing=options), ignore_errors)
        self.dispatcher = Dispatcher(self.clock, Limits(), self.stack.routed, self.stack.local)
        self.dispatcher.tables = {"internal": table(directory(instance(1), instance(2)), breaker=breaker)}
        self.sampler = Sampler(options)

    def begin(self, *metadata: tuple[bytes, bytes], method: bytes = GET) -> Call:
        call = begin(self.dispatcher, method, *metadata)
        self.dispatcher.admit(call)
        return call

    def attempt(self, call: Call, status: int = 0, seconds: float = 0.1, reason: Reason | None = None) -> None:
        self.dispatcher.next_endpoint(call)
        self.clock.advance(seconds)
        self.dispatcher.end_attempt(call, status, "" if status == 0 else "it said no", reason)

    def spans(self, call: Call, release: int = 0) -> list[dict[str, Any]]:
        """End the call; return the spans that are kept of it."""
        self.dispatcher.end(call)
        records = kept([(self.clock.wall_ns(), call)], self.sampler)
        if not records:
            return []
        batch = span_batch(records, "edge-1", lambda _: release)
        assert len(batch.start_ns) == 1
        found: dict[str, Any] = {}
        for descriptor, value in batch.ListFields():
            (found[descriptor.name],) = value.values if isinstance(value, TextColumn) else value
        return [{**found, "attributes": json.loads(found["attributes"])}]


def sent(call: Call) -> dict[bytes, bytes]:
    return dict(call.request_metadata())


def test_the_upstream_gets_the_trace_with_a_span_of_the_edge_between() -> None:
    call = Rig().begin((b"traceparent", SAMPLED), (b"tracestate", b"a=b"))
    assert sent(call)[b"tracestate"] == b"a=b"
    parts = tracing.parse(sent(call)[b"traceparent"])
    assert parts is not None
    assert parts[0] == TRACE
    assert parts[1] != SPAN
    assert parts[2]
    assert [name for name, _ in call.request_metadata()].count(b"traceparent") == 1


@pytest.mark.parametrize(("came", "sampled"), [(SAMPLED, True), (NOT_SAMPLED, False)])
@pytest.mark.parametrize("options", [ALL, NONE])
def test_whoever_began_the_trace_says_whether_it_is_sampled(
    came: bytes,
    sampled: bool,  # noqa: FBT001
    options: TracingOptions,
) -> None:
    assert tracing.is_sampled(sent(Rig(options).begin((b"traceparent", came)))[b"traceparent"]) is sampled


@pytest.mark.parametrize("options", [ALL, NONE])
def test_a_trace_that_begins_here_is_sampled_by_its_share(options: TracingOptions) -> None:
    assert tracing.is_sampled(sent(Rig(options).begin())[b"traceparent"]) is (options is ALL)


def test_the_correlation_id_is_the_trace_id_where_none_came() -> None:
    rig = Rig()
    for metadata in [(), ((b"x-correlation-id", b"not well formed"),), ((b"traceparent", b"nonsense"),)]:
        call = rig.begin(*metadata)
        assert call.traceparent[3:35] == call.correlation_id
    assert rig.begin((b"traceparent", SAMPLED)).correlation_id == TRACE
    given_one = rig.begin((b"x-correlation-id", b"order-42"))
    assert given_one.correlation_id == b"order-42"
    assert tracing.parse(given_one.traceparent) is not None
    both = rig.begin((b"x-correlation-id", b"order-42"), (b"traceparent", SAMPLED))
    assert (both.correlation_id, both.traceparent[3:35]) == (b"order-42", TRACE)


@given(st.binary(max_size=80))
def test_whatever_comes_what_goes_on_is_well_formed(value: bytes) -> None:
    call = Rig().begin((b"traceparent", value))
    assert correlation.trace_id(call.traceparent) is not None
    assert (call.traceparent_in == value and value != b"") == (correlation.trace_id(value) is not None)


def test_a_span_says_what_the_edge_knows_of_a_call() -> None:
    rig = Rig()
    call = rig.begin(
        (b"traceparent", SAMPLED), (b"x-correlation-id", b"order-42"), (b"grpc-timeout", b"2S"), method=GET
    )
    rig.attempt(call, seconds=0.25)
    call.bytes_in, call.bytes_out = 3, 5
    (span,) = rig.spans(call, release=7)
    assert (span["trace_id"], span["parent_span_id"]) == (TRACE.decode(), SPAN.decode())
    assert span["span_id"] == sent(call)[b"traceparent"][36:52].decode()
    assert (span["name"], span["rpc_method"], span["rpc_status_code"]) == (f"{ORDERS}/Get", f"{ORDERS}/Get", "OK")
    assert (span["kind"], span["status"], span["flags"]) == (SERVER, UNSET, 1)
    assert (span["service"], span["instance"], span["peer_service"]) == ("mesh-edge", "edge-1", "orders")
    assert span["correlation_id"] == "order-42"
    assert span["end_ns"] - span["start_ns"] == 250_000_000
    endpoint = call.endpoint
    assert endpoint is not None
    attributes = span["attributes"]
    assert (attributes["mesh.instance"], attributes["server.address"]) == (endpoint.instance_id, endpoint.address)
    assert attributes["mesh.breaker"] == "closed"
    assert attributes["mesh.deadline_ms"] == pytest.approx(2000)
    assert (attributes["mesh.release"], attributes["mesh.attempts"]) == (7, 1)
    assert (attributes["mesh.bytes_in"], attributes["mesh.bytes_out"]) == (3, 5)
    assert (attributes["mesh.route"], attributes["mesh.route.match"]) == ("", f"the registry: it declares {ORDERS}")
    assert (attributes["mesh.listener"], attributes["rpc.system.name"]) == ("internal", "grpc")
    assert "mesh.reason" not in attributes
    assert "error.type" not in attributes


def test_attempts_that_failed_before_are_events_of_the_span() -> None:
    rig = Rig()
    call = rig.begin()
    rig.attempt(call, outcome.UNAVAILABLE, 0.1, Reason.UPSTREAM_CONNECT_FAILED)
    rig.attempt(call, seconds=0.2)
    (span,) = rig.spans(call)
    (event,) = json.loads(span["events"])
    assert (event["name"], event["ts_ns"] - span["start_ns"]) == ("attempt failed", 100_000_000)
    assert event["attributes"]["rpc.status_code"] == "UNAVAILABLE"
    assert event["attributes"]["mesh.reason"] == "upstream_connect_failed"
    assert event["attributes"]["mesh.instance"] != span["attributes"]["mesh.instance"]
    assert (span["rpc_status_code"], span["attributes"]["mesh.attempts"]) == ("OK", 2)


def test_failures_are_kept_though_they_are_not_sampled() -> None:
    rig = Rig(NONE)
    fine, failed = rig.begin((b"traceparent", NOT_SAMPLED)), rig.begin((b"traceparent", NOT_SAMPLED))
    rig.attempt(fine)
    rig.attempt(failed, outcome.INTERNAL)
    assert rig.spans(fine) == []
    (span,) = rig.spans(failed)
    assert (span["status"], span["status_message"], span["flags"]) == (ERROR, "it said no", 0)
    assert span["attributes"]["error.type"] == "INTERNAL"


def test_slow_calls_are_kept_though_they_are_not_sampled() -> None:
    rig = Rig(TracingOptions(sample=0, slow_seconds=0.5))
    slow = rig.begin()
    rig.attempt(slow, seconds=0.5)
    assert len(rig.spans(slow)) == 1


def test_a_call_that_its_caller_gave_up_is_no_failure() -> None:
    rig = Rig(NONE)
    call = rig.begin()
    rig.attempt(call, outcome.CANCELLED)
    assert rig.spans(call) == []


def test_what_the_edge_says_of_itself_is_kept_only_where_it_goes_wrong_or_is_asked_for() -> None:
    rig = Rig()
    call = rig.begin(method=b"/grpc.health.v1.Health/Check")
    call.finish(0)
    assert rig.spans(call) == []
    asked = rig.begin((b"traceparent", SAMPLED), method=b"/grpc.health.v1.Health/Check")
    asked.finish(0)
    assert len(rig.spans(asked)) == 1
    wrong = rig.begin(method=b"/grpc.health.v1.Health/Check")
    wrong.finish(outcome.INTERNAL)
    (span,) = rig.spans(wrong)
    assert span["attributes"]["mesh.route.match"] == "the edge answers it itself"


def test_refusals_have_spans() -> None:
    rig = Rig()
    call = begin(rig.dispatcher, b"/no.Such/Method")
    with pytest.raises(Reject) as refused:
        rig.dispatcher.admit(call)
    call.reject(refused.value)
    (span,) = rig.spans(call)
    assert (span["rpc_status_code"], span["attributes"]["mesh.reason"]) == ("UNIMPLEMENTED", "no_route")
    assert "peer_service" not in span or span["peer_service"] == ""


def test_the_breaker_is_told_as_it_was_when_the_endpoint_was_picked() -> None:
    rig = Rig(breaker=BreakerOptions(minimum_calls=1, failure_rate=1.0, open_seconds=5, half_open_probes=1))
    seen = []
    for status in (outcome.UNAVAILABLE, outcome.UNAVAILABLE):  # one for each endpoint
        call = rig.begin()
        rig.attempt(call, status)
        seen += rig.spans(call)
    refused = rig.begin()
    with pytest.raises(Reject) as rejection:
        rig.dispatcher.next_endpoint(refused)
    refused.reject(rejection.value)
    seen += rig.spans(refused)
    rig.clock.advance(5)
    probe = rig.begin()
    rig.attempt(probe)
    seen += rig.spans(probe)
    assert [span["attributes"]["mesh.breaker"] for span in seen] == ["closed", "closed", "open", "half-open"]


def test_a_route_of_the_configuration_says_why_it_matched() -> None:
    rig = Rig()
    rule = read(
        {
            "routes": [
                {
                    "name": "testers",
                    "match": {"methods": [f"{ORDERS}/Get"], "headers": {"x-canary": {"exact": "yes"}}},
                    "to": [{"service": "orders"}],
                }
            ]
        },
        Limits(),
    ).routes[0]
    call = rig.begin()
    route = call.route
    assert route is not None
    call.route = route.variant("orders", route.targets, None, rule)
    rig.attempt(call)
    (span,) = rig.spans(call)
    assert (span["attributes"]["mesh.route"], span["attributes"]["mesh.route.name"]) == ("routes[0]", "testers")
    assert span["attributes"]["mesh.route.match"] == f"the method is {ORDERS}/Get and x-canary is 'yes'"


def test_the_log_record_of_a_call_names_its_span() -> None:
    rig = Rig()
    call = rig.begin((b"traceparent", SAMPLED))
    rig.attempt(call)
    rig.dispatcher.end(call)
    untraced = Call(GET, (), "peer", "internal", 1.0)
    untraced.finish(0)
    calls = [(1, call), (2, untraced)]
    batch = access_batch(calls, [line(*one) for one in calls], "edge-1")
    assert list(batch.trace_id.values) == [TRACE.decode(), ""]
    assert list(batch.span_id.values) == [call.traceparent[36:52].decode(), ""]
    assert kept([(2, untraced)], rig.sampler) == []


def test_a_trace_of_a_later_version_goes_on_in_todays() -> None:
    call = Rig().begin((b"traceparent", b"cc" + SAMPLED[2:] + b"-more"), (b"x-correlation-id", TRACE))
    assert call.traceparent.startswith(b"00-" + TRACE)
    assert len(call.traceparent) == len(SAMPLED)


def test_a_correlation_id_that_looks_like_the_trace_does_not_make_a_malformed_trace_a_good_one() -> None:
    call = Rig().begin((b"traceparent", SAMPLED[:-3]), (b"x-correlation-id", TRACE))
    assert call.traceparent_in == b""
    assert call.traceparent[3:35] != TRACE
