from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mesh.errors import UsageError
from mesh.resilience import policy
from mesh.resilience.policy import (
    BalancerOptions,
    HedgeOptions,
    OutlierOptions,
    RateLimitOptions,
    RetryOptions,
    RoutePolicy,
    TimeoutOptions,
)


def test_defaults_are_valid_and_equal_policies_are_one() -> None:
    full = [
        RoutePolicy(
            timeout=TimeoutOptions(default_seconds=1, max_seconds=2),
            retry=RetryOptions(),
            outlier=OutlierOptions(),
            rate_limit=RateLimitOptions(per_second=5),
            balancer=BalancerOptions(policy.RING_HASH, hash_key="x-user"),
            hedge=HedgeOptions(),
        )
        for _ in range(2)
    ]
    assert len({*full, RoutePolicy()}) == 2


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (TimeoutOptions, {"default_seconds": 0}),
        (TimeoutOptions, {"max_seconds": -1.0}),
        (RetryOptions, {"attempts": 0}),
        (RetryOptions, {"attempts": 6}),
        (RetryOptions, {"on": frozenset({"OK"})}),
        (RetryOptions, {"on": frozenset({"SOMETIMES"})}),
        (RetryOptions, {"per_try_seconds": 0.0}),
        (RetryOptions, {"backoff_base_seconds": 0.0}),
        (RetryOptions, {"backoff_max_seconds": 0.01}),
        (RetryOptions, {"budget_share": 1.5}),
        (RetryOptions, {"budget_minimum": -1.0}),
        (OutlierOptions, {"consecutive_failures": -1}),
        (OutlierOptions, {"success_rate_factor": -1.0}),
        (OutlierOptions, {"success_rate_hosts": 1}),
        (OutlierOptions, {"success_rate_calls": 0}),
        (OutlierOptions, {"latency_factor": 1.0}),
        (OutlierOptions, {"interval_seconds": 0.0}),
        (OutlierOptions, {"max_ejection_seconds": 1.0}),
        (OutlierOptions, {"max_ejection_share": 1.1}),
        (RateLimitOptions, {"per_second": 0.0}),
        (RateLimitOptions, {"per_second": 1.0, "burst": 0}),
        (RateLimitOptions, {"per_second": 1.0, "key": "colour"}),
        (RateLimitOptions, {"per_second": 1.0, "key": "metadata"}),
        (RateLimitOptions, {"per_second": 1.0, "key": "metadata", "metadata_key": "X-User"}),
        (RateLimitOptions, {"per_second": 1.0, "max_keys": 0}),
        (BalancerOptions, {"kind": "random"}),
        (BalancerOptions, {"kind": "ring_hash"}),
        (BalancerOptions, {"load_factor": 1.0}),
        (BalancerOptions, {"decay_seconds": 0.0}),
        (HedgeOptions, {"delay_seconds": 0.0}),
        (HedgeOptions, {"attempts": 1}),
    ],
)
def test_what_makes_no_sense_is_named(make: Callable[..., Any], fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        make(**fields)
    # Where two belong together, it is the last one of them that is wrong, or missing.
    assert any(f".{name}" in str(error.value) for name in (list(fields)[-1], "metadata_key", "hash_key"))


def test_codes_are_the_numbers_of_the_names() -> None:
    assert RetryOptions(on=frozenset({"UNAVAILABLE", "ABORTED", "refused"})).codes == {10, 14}


def test_a_burst_is_a_second_of_calls_unless_told() -> None:
    assert [RateLimitOptions(rate).tokens for rate in (0.1, 1, 250)] == [1, 1, 250]
    assert RateLimitOptions(5, burst=50).tokens == 50
