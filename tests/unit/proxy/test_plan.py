"""What policies come to, and what is kept of it."""

from __future__ import annotations

import gc

import pytest

from mesh.discovery.model import Health
from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.outlier import OutlierDetector
from mesh.resilience.policy import (
    LEAST_REQUEST,
    BalancerOptions,
    OutlierOptions,
    RateLimitOptions,
    RetryOptions,
    RoutePolicy,
    TimeoutOptions,
)
from mesh.testing import ManualClock
from proxy.interceptors.rate_limit import client_address
from proxy.routing.table import compile_table
from proxy.stack import Stack, StackOptions, ignore_errors
from proxy.upstream.plan import Kept, Plans
from proxy.upstream.pool import EndpointPool
from proxy.upstream.targets import Targets
from tests.unit.proxy.helpers import directory, instance

SERVICE, METHOD = "orders", "shop.v1.Orders/Get"
FULL = RoutePolicy(
    timeout=TimeoutOptions(max_seconds=1),
    retry=RetryOptions(),
    outlier=OutlierOptions(),
    rate_limit=RateLimitOptions(5),
    balancer=BalancerOptions(LEAST_REQUEST),
)


def plans(policy: RoutePolicy | None) -> Plans:
    made = Plans(Stack(ManualClock(), StackOptions(), ignore_errors).plan)
    made.follow(lambda _service, _method: policy)
    return made


def test_a_route_without_a_policy_has_no_plan_and_its_plain_targets() -> None:
    pool = EndpointPool(BreakerOptions())
    state = directory(instance(1))
    pool.update(state)
    route = compile_table(state, pool, public_only=False, plans=plans(None)).find(b"/shop.v1.Orders/Get")
    assert route is not None
    assert route.plan is None
    assert type(route.targets) is Targets


def test_a_policy_adds_what_it_asks_for_and_nothing_else() -> None:
    names = {None: "", RoutePolicy(): "", FULL: "rate_limit retry_budget outliers"}
    plain = ["correlation", "access_log", "metrics", "deadline", "breaker"]
    for policy, more in names.items():
        plan = plans(policy).of(SERVICE, METHOD)
        if plan is not None:
            assert plan.pipeline.names == (*plain[:-1], *more.split(), plain[-1])
            assert (plan.retries is None) == (policy != FULL)


def test_methods_with_one_policy_share_one_plan_and_its_targets() -> None:
    made = plans(FULL)
    plan = made.of(SERVICE, METHOD)
    assert plan is not None
    assert made.of(SERVICE, "shop.v1.Orders/List") is plan
    assert made.of("payments", METHOD) is not plan
    targets = Targets(())
    assert plan.targets(targets) is plan.targets(targets)
    del targets
    gc.collect()
    assert len(plan._made) == 0, "targets of tables that are gone are gone"


def test_what_was_learnt_survives_other_policies_and_is_forgotten_in_the_end() -> None:
    made = plans(FULL)
    before = made.of(SERVICE, METHOD)
    assert before is not None
    assert before.retries is not None
    budget = before.retries.budget
    made.follow(lambda _service, _method: RoutePolicy(retry=RetryOptions(attempts=2)))
    after = made.of(SERVICE, METHOD)
    assert after is not None
    assert after.retries is not None
    assert after.retries.budget is budget
    made.retain({"payments"}, lambda _: ())
    assert made.kept.all() == []


def test_kept_is_bounded_by_two_changes() -> None:
    kept = Kept()
    for number in range(100):
        kept.get(list, SERVICE, number)
        kept.turn()
    assert len(kept.all()) == 1


def test_the_detector_counts_the_endpoints_that_want_calls() -> None:
    made = plans(FULL)
    assert made.of(SERVICE, METHOD) is not None
    ((_, detector),) = [one for one in made.kept.all() if isinstance(one[1], OutlierDetector)]
    pool = EndpointPool(BreakerOptions())
    pool.update(directory(instance(1), instance(2), instance(3, health=Health.DRAINING), instance(4, weight=0)))
    for endpoint in pool.all():
        detector.host(endpoint.key)
    made.retain({SERVICE}, pool.willing)
    assert sorted(key[1] for key in detector.hosts) == ["orders-1", "orders-2"]


@pytest.mark.parametrize(
    ("peer", "key"),
    [
        ("ipv4:10.1.2.3:4567", b"ipv4:10.1.2.3"),
        ("ipv6:%5B::ffff:10.1.2.3%5D:1", b"ipv4:10.1.2.3"),
        ("ipv6:%5B2001:db8:1:2:3::4%5D:1", bytes.fromhex("20010db800010002")),
        ("ipv6:[2001:db8:1:2::9]:77", bytes.fromhex("20010db800010002")),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", bytes.fromhex("fe80000000000000")),
        ("ipv6:nonsense:1", b"nonsense"),
        ("unix:", b"unix"),
        ("", b""),
    ],
)
def test_a_client_is_its_address_and_one_network_is_one_client(peer: str, key: bytes) -> None:
    assert client_address(peer) == key
