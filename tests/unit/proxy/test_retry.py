"""The decision to try again by policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.resilience import outcome
from mesh.resilience.policy import RetryOptions
from mesh.resilience.retry_budget import RetryBudget
from mesh.testing import ManualClock
from proxy.call.call import Call
from proxy.upstream.retry import MAX_PUSHBACK_SECONDS, PREVIOUS_ATTEMPTS, Failure, Retries, parse_pushback


def retries(*, dice: float = 0.5, **options: object) -> Retries:
    made = RetryOptions(**options)  # type: ignore[arg-type]
    return Retries(made, RetryBudget(made), lambda: dice)


def failed(code: int = outcome.UNAVAILABLE, *metadata: tuple[bytes, bytes], attempts: int = 1) -> Call:
    call = Call(b"/shop.v1.Orders/Get", metadata, "ipv4:127.0.0.1:5", "internal", ManualClock().now())
    call.attempts = attempts
    call.finish(code)
    return call


def delay(policy: Retries, call: Call, failure: Failure | None = None, pushback: bytes | None = None) -> float | None:
    return policy.delay(call, failure, ManualClock().now(), replayable=True, pushback=pushback)


@pytest.mark.parametrize(
    ("on", "code", "failure", "wanted"),
    [
        ({"UNAVAILABLE"}, outcome.UNAVAILABLE, None, True),
        ({"UNAVAILABLE"}, outcome.UNAVAILABLE, Failure.LOST, True),
        ({"UNAVAILABLE"}, outcome.UNAVAILABLE, Failure.CONNECT, False),
        ({"UNAVAILABLE"}, outcome.UNAVAILABLE, Failure.REFUSED, False),
        ({"connect-failure"}, outcome.UNAVAILABLE, Failure.CONNECT, True),
        ({"refused"}, outcome.UNAVAILABLE, Failure.REFUSED, True),
        ({"refused"}, outcome.UNAVAILABLE, None, False),
        ({"ABORTED"}, 10, None, True),
        ({"ABORTED"}, outcome.INTERNAL, None, False),
        (set(), outcome.DEADLINE_EXCEEDED, Failure.SLOW, True),
        (set(), outcome.OK, None, False),
    ],
)
def test_what_is_asked_for_is_tried_again(on: set[str], code: int, failure: Failure | None, wanted: bool) -> None:  # noqa: FBT001
    assert (delay(retries(on=frozenset(on)), failed(code), failure) is not None) is wanted


def test_not_without_the_request_nor_after_the_answer_began_nor_too_often() -> None:
    policy = retries(attempts=3)
    assert policy.delay(failed(), None, 0.0, replayable=False) is None
    begun = failed()
    begun.response_at = 1.0
    assert delay(policy, begun) is None
    assert delay(policy, failed(attempts=2)) is not None
    assert delay(policy, failed(attempts=3)) is None


def test_the_wait_doubles_and_is_drawn() -> None:
    options = {"attempts": 5, "backoff_base_seconds": 0.1, "backoff_max_seconds": 0.3}
    assert [delay(retries(dice=1.0, **options), failed(attempts=n)) for n in (1, 2, 3, 4)] == [0.1, 0.2, 0.3, 0.3]
    assert delay(retries(dice=0.0, **options), failed()) == 0


def test_a_wait_that_outlasts_the_deadline_is_not_begun_and_costs_nothing() -> None:
    policy = retries(dice=1.0)
    call = failed()
    call.deadline = ManualClock().now() + 0.02
    assert delay(policy, call) is None
    assert policy.budget.granted == 0
    call.deadline += 0.01
    assert delay(policy, call) == 0.025


def test_the_budget_has_the_last_word() -> None:
    policy = retries(budget_share=0.0, budget_minimum=0.1)
    assert delay(policy, failed()) is not None
    assert delay(policy, failed()) is None
    assert policy.budget.refused == 1


def test_the_upstream_is_told_how_many_attempts_came_before() -> None:
    for said, told in ((None, b"2"), (b"3", b"5"), (b"-1", b"2"), (b"9" * 50, b"2"), (b"x", b"2")):
        call = failed(outcome.UNAVAILABLE, *([(PREVIOUS_ATTEMPTS, said)] if said else []), attempts=2)
        assert delay(retries(), call) is not None
        assert call.upstream_metadata == {PREVIOUS_ATTEMPTS: told}


def test_what_is_not_tried_again_is_told_to_nobody() -> None:
    call = failed(outcome.INTERNAL)
    assert delay(retries(), call) is None
    assert not call.upstream_metadata


def test_the_upstreams_word_stands_in_the_place_of_the_wait() -> None:
    assert delay(retries(), failed(), pushback=b"1500") == 1.5
    for never in (b"-1", b"", b"soon", b"1.5", b"10001", b"9" * 40, "٣".encode()):
        assert delay(retries(), failed(), pushback=never) is None


@given(st.binary(max_size=12))
def test_any_pushback_is_a_short_wait_or_none(value: bytes) -> None:
    seconds = parse_pushback(value)
    assert seconds is None or 0 <= seconds <= MAX_PUSHBACK_SECONDS
