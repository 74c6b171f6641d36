from __future__ import annotations

import dataclasses

from mesh.discovery.model import Directory, Health
from mesh.resilience.breaker import BreakerOptions
from mesh.testing.clock import ManualClock
from proxy.upstream.pool import EndpointPool
from proxy.upstream.weighing import Weighing
from tests.unit.proxy.helpers import ORDERS, directory, instance

TWO = directory(instance(1), instance(2), instance(1, service="stock"))


def changed(state: Directory, number: int, **fields: object) -> Directory:
    key = ("orders", f"orders-{number}")
    one = dataclasses.replace(state.instances[key], **fields)  # type: ignore[arg-type]
    return dataclasses.replace(state, instances={**state.instances, key: one})


def test_what_belongs_to_a_service_is_kept_until_that_changes() -> None:
    pool = EndpointPool(BreakerOptions())
    pool.update(TWO)
    orders, stock = pool.targets("orders", ORDERS), pool.targets("stock", ORDERS)
    assert pool.targets("orders", ORDERS) is orders
    first, _ = pool.of("orders")
    assert pool.update(changed(TWO, 2, health=Health.DRAINING)) == []
    assert pool.targets("stock", ORDERS) is stock
    assert pool.targets("orders", ORDERS).endpoints == (first,)
    assert pool.of("orders")[0] is first
    assert pool.willing("orders") == {first.key}


def test_one_that_changes_its_services_or_exposure_is_found_where_it_is_now() -> None:
    pool = EndpointPool(BreakerOptions())
    pool.update(TWO)
    assert pool.declared("orders") == {ORDERS}
    assert pool.declared("orders", public_only=True) == frozenset()
    pool.update(changed(TWO, 1, grpc_services=("shop.v1.Other",), public=True))
    assert pool.declared("orders") == {ORDERS, "shop.v1.Other"}
    assert pool.declared("orders", public_only=True) == {"shop.v1.Other"}
    assert pool.has_public("orders")
    assert [one.instance_id for one in pool.targets("orders", ORDERS).endpoints] == ["orders-2"]
    assert len(pool.targets("orders", "shop.v1.Other", public_only=True).endpoints) == 1


def test_other_options_reach_breakers_of_services_that_did_not_change() -> None:
    pool = EndpointPool(BreakerOptions())
    pool.update(TWO)
    pool._breaker = BreakerOptions(minimum_calls=77)
    pool.update(TWO)
    assert {one.breaker.options.minimum_calls for one in pool.all()} == {77}


def test_only_services_that_warm_up_are_weighed_anew() -> None:
    clock = ManualClock()
    weighing = Weighing("", clock)
    now = clock.wall_ns() / 1e9
    pool = EndpointPool(BreakerOptions())
    pool.update(changed(TWO, 1, warm_up_seconds=10.0, serving_since=now))
    orders, stock = (pool.targets(name, ORDERS, weigh=weighing) for name in ("orders", "stock"))
    assert orders.weights[0] < orders.weights[1]
    clock.advance(5)
    assert pool.reweigh(weighing.changes)
    half = pool.targets("orders", ORDERS, weigh=weighing)
    assert orders.weights[0] / orders.weights[1] < half.weights[0] / half.weights[1] < 1
    clock.advance(6)
    assert pool.reweigh(weighing.changes)
    whole = pool.targets("orders", ORDERS, weigh=weighing)
    assert whole.weights[0] == whole.weights[1]
    assert not pool.reweigh(weighing.changes)
    assert pool.targets("orders", ORDERS, weigh=weighing) is whole
    assert pool.targets("stock", ORDERS, weigh=weighing) is stock
