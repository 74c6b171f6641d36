from __future__ import annotations

from collections import Counter

import pytest

from mesh.discovery.model import Health
from mesh.resilience import outcome
from mesh.resilience.breaker import BreakerOptions, BreakerState
from mesh.testing import ManualClock
from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.call.limits import Limits
from proxy.call.reason import Reason, Reject
from proxy.interceptors.breaker import CircuitBreaker
from proxy.upstream.retry import MAX_ATTEMPTS, Failure, may_retry
from tests.unit.proxy.helpers import begin, directory, dispatcher, instance, service

BREAKER = BreakerOptions(minimum_calls=2, failure_rate=0.5, open_seconds=5, half_open_probes=1, slow_call_seconds=1)


def attempt(made: Dispatcher, code: int, reason: Reason | None = None) -> Call:
    """Take one call through one attempt that ends with `code`."""
    call = begin(made)
    made.admit(call)
    made.next_endpoint(call)
    call.request_ended_at = made.now()
    made.end_attempt(call, code, "", reason)
    made.end(call)
    return call


def rejected(made: Dispatcher, call: Call) -> Reject:
    try:
        made.admit(call)
        made.next_endpoint(call)
    except Reject as refusal:
        return refusal
    pytest.fail("the call was let through")


def test_calls_go_round() -> None:
    made = dispatcher(state=directory(*(instance(number) for number in (1, 2, 3))))
    seen = Counter(attempt(made, 0).endpoint.instance_id for _ in range(9))  # type: ignore[union-attr]
    assert set(seen.values()) == {3}


def test_calls_follow_the_weights() -> None:
    made = dispatcher(state=directory(instance(1, weight=300), instance(2, weight=100)))
    seen = Counter(attempt(made, 0).endpoint.instance_id for _ in range(8))  # type: ignore[union-attr]
    assert seen == {"orders-1": 6, "orders-2": 2}


def test_books_are_right_after_a_call() -> None:
    made = dispatcher()
    call = begin(made)
    made.admit(call)
    endpoint = made.next_endpoint(call)
    assert (made.in_flight, endpoint.in_flight) == (1, 1)
    made.end_attempt(call, outcome.UNAVAILABLE)
    made.end(call)
    made.end(call)  # a second end is no end
    assert (made.in_flight, endpoint.in_flight, endpoint.calls, endpoint.failures) == (0, 0, 1, 1)


def test_unknown_services_and_hidden_ones_are_told_the_same() -> None:
    made = dispatcher()
    refusal = rejected(made, begin(made, b"/shop.v1.Hidden/Get"))
    assert (refusal.reason, refusal.message) == (Reason.NO_ROUTE, "unknown service shop.v1.Hidden")
    assert refusal.reason.code == outcome.UNIMPLEMENTED


def test_what_nobody_serves_is_unavailable_at_once() -> None:
    for state in (directory(service("orders")), directory(instance(health=Health.NOT_SERVING))):
        made = dispatcher(state=state)
        refusal = rejected(made, begin(made))
        assert (refusal.reason, refusal.reason.code) == (Reason.NO_ENDPOINT, outcome.UNAVAILABLE)


def test_methods_that_the_edge_lacks_are_unimplemented() -> None:
    made = dispatcher()
    assert rejected(made, begin(made, b"/grpc.health.v1.Health/Nope")).reason is Reason.NO_ROUTE


@pytest.mark.parametrize(
    "metadata",
    [[(b"k", b"v" * 2000)], [(b"k" * 2000, b"v")], [(b"k", b"v")] * 5],
    ids=["value", "name", "count"],
)
def test_metadata_over_the_limits_is_refused(metadata: list[tuple[bytes, bytes]]) -> None:
    made = dispatcher(limits=Limits(max_header_bytes=1024, max_headers=4))
    refusal = rejected(made, begin(made, b"/shop.v1.Orders/Get", *metadata))
    assert refusal.reason is Reason.HEADERS_TOO_LARGE


def test_too_many_calls_at_once_are_refused() -> None:
    made = dispatcher(limits=Limits(max_calls_in_flight=2))
    first = begin(made)
    made.admit(first)
    made.admit(begin(made))
    third = begin(made)
    assert rejected(made, third).reason is Reason.OVERLOADED
    made.end(third)
    made.end(first)
    made.admit(begin(made))


def breaking(*numbers: int) -> tuple[Dispatcher, ManualClock]:
    clock = ManualClock()
    state = directory(*(instance(number) for number in numbers))
    return dispatcher(CircuitBreaker(clock, BREAKER), state=state, clock=clock, breaker=BREAKER), clock


@pytest.mark.parametrize(
    "code",
    [outcome.UNKNOWN, outcome.DEADLINE_EXCEEDED, outcome.INTERNAL, outcome.UNAVAILABLE, outcome.DATA_LOSS],
)
def test_failures_of_the_upstream_open_the_breaker_and_probes_heal_it(code: int) -> None:
    made, clock = breaking(1)
    for _ in range(2):
        attempt(made, code)
    refusal = rejected(made, begin(made))
    assert (refusal.reason, refusal.reason.code) == (Reason.BREAKER_OPEN, outcome.UNAVAILABLE)
    clock.advance(BREAKER.open_seconds)
    healed = attempt(made, outcome.OK)
    assert healed.endpoint is not None
    assert healed.endpoint.breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        *((code, None) for code in (0, 1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 16)),
        (outcome.RESOURCE_EXHAUSTED, Reason.MESSAGE_TOO_LARGE),
        (outcome.INTERNAL, Reason.INTERNAL),  # our own fault
    ],
)
def test_mistakes_of_clients_do_not_open_the_breaker(code: int, reason: Reason | None) -> None:
    made, _clock = breaking(1)
    for _ in range(50):
        attempt(made, code, reason)
    assert attempt(made, 0).status == 0


def test_slow_answers_open_the_breaker_but_slow_requests_do_not() -> None:
    made, clock = breaking(1)
    for _ in range(10):  # the client took its time
        call = begin(made)
        made.admit(call)
        made.next_endpoint(call)
        clock.advance(2)
        call.request_ended_at = made.now()
        made.on_response(call)
        clock.advance(100)  # and then listened for long
        made.end_attempt(call, 0)
        made.end(call)
    clock.advance(BREAKER.window_seconds + 1)
    for _ in range(2):
        call = begin(made)
        made.admit(call)
        made.next_endpoint(call)
        call.request_ended_at = made.now()
        clock.advance(1)
        made.on_response(call)
        made.end_attempt(call, 0)
        made.end(call)
    assert rejected(made, begin(made)).reason is Reason.BREAKER_OPEN


def test_an_open_breaker_leaves_the_other_endpoints_working() -> None:
    made, _clock = breaking(1, 2)
    sick = attempt(made, 0).endpoint
    for _ in range(8):
        call = begin(made)
        made.admit(call)
        made.end_attempt(call, outcome.UNAVAILABLE if made.next_endpoint(call) is sick else 0)
        made.end(call)
    assert sick is not None
    assert sick.breaker.state is BreakerState.OPEN
    assert all(attempt(made, 0).endpoint is not sick for _ in range(10))


def test_a_failed_connect_goes_to_the_next_endpoint_and_no_further_than_allowed() -> None:
    made = dispatcher(state=directory(*(instance(number) for number in range(1, 6))))
    call = begin(made)
    made.admit(call)
    seen = []
    while True:
        seen.append(made.next_endpoint(call).instance_id)
        made.end_attempt(call, outcome.UNAVAILABLE, "refused", Reason.UPSTREAM_CONNECT_FAILED)
        if not may_retry(call, Failure.CONNECT, replayable=True):
            break
    assert len(seen) == len(set(seen)) == MAX_ATTEMPTS


def test_when_all_were_tried_the_last_failure_is_told() -> None:
    made = dispatcher(state=directory(instance(1)))
    call = begin(made)
    made.admit(call)
    made.next_endpoint(call)
    made.end_attempt(call, outcome.UNAVAILABLE, "refused", Reason.UPSTREAM_CONNECT_FAILED)
    with pytest.raises(Reject) as refusal:
        made.next_endpoint(call)
    assert (refusal.value.reason, refusal.value.message) == (Reason.UPSTREAM_CONNECT_FAILED, "refused")


def test_what_the_upstream_may_have_seen_is_not_tried_again() -> None:
    made = dispatcher(state=directory(instance(1), instance(2)))
    call = begin(made)
    made.admit(call)
    made.next_endpoint(call)
    assert may_retry(call, Failure.REFUSED, replayable=True)
    assert not may_retry(call, Failure.LOST, replayable=True)
    assert not may_retry(call, Failure.CONNECT, replayable=False)
    made.on_response(call)
    assert not may_retry(call, Failure.CONNECT, replayable=True)
    call.response_at = 0.0
    call.attempts = 2
    assert not may_retry(call, Failure.REFUSED, replayable=True)
