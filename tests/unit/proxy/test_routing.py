from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery.model import Health
from mesh.resilience.breaker import BreakerOptions
from proxy.routing.table import MAX_METHODS, RouteTable, compile_table
from proxy.upstream.pool import EndpointPool
from tests.unit.proxy.helpers import GET, ORDERS, directory, instance, service, table


def addresses(routes: RouteTable, path: bytes = GET) -> list[str]:
    found = routes.find(path)
    assert found is not None
    return [endpoint.address for endpoint in found.targets.endpoints]


def test_a_call_goes_to_the_service_that_declares_it() -> None:
    routes = table(directory(instance(1), instance(2, service="payments", grpc_services=("shop.v1.Payments",))))
    found = routes.find(GET)
    assert found is not None
    assert (found.service, found.label) == ("orders", "shop.v1.Orders/Get")
    assert addresses(routes) == ["127.0.0.1:10001"]


def test_unknown_and_malformed_paths_have_no_route() -> None:
    routes = table(directory(instance()))
    for path in (
        b"/shop.v1.Nope/Get",
        b"shop.v1.Orders/Get",
        b"/shop.v1.Orders",
        b"/shop.v1.Orders/",
        b"",
        b"/",
        b"//",
    ):
        assert routes.find(path) is None
    for path in (b"/shop.v1.Orders/Get/More", b"/shop.v1.Orders/Get?x", "/shop.v1.Orders/Gét".encode(), b"/\xff/Get"):
        assert routes.find(path) is None


def test_public_shows_only_what_is_public() -> None:
    state = directory(
        instance(1, public=True), instance(2, service="payments", grpc_services=("shop.v1.Payments",)), instance(3)
    )
    routes = table(state, public_only=True)
    assert addresses(routes) == ["127.0.0.1:10001"]  # not the instance of the same service that is internal
    assert routes.find(b"/shop.v1.Payments/Pay") is None
    assert routes.service_names == {"orders"}


def test_a_service_without_instances_is_known_and_empty() -> None:
    state = directory(service("orders", ORDERS))
    found = table(state).find(GET)
    assert found is not None
    assert found.targets.known == ()
    assert table(state, public_only=True).find(GET) is None
    assert table(directory(service("orders", ORDERS, public=True)), public_only=True).find(GET) is not None


def test_the_older_service_keeps_a_grpc_service_that_both_declare() -> None:
    young, old = service("a-young", ORDERS, age=9), service("z-old", ORDERS, age=2)
    state = directory(young, old, instance(1, service="a-young"), instance(2, service="z-old"))
    assert addresses(table(state)) == ["127.0.0.1:10002"]


def test_only_instances_that_declare_a_grpc_service_get_its_calls() -> None:
    state = directory(instance(1), instance(2, grpc_services=(ORDERS, "shop.v2.Orders")))
    assert addresses(table(state), b"/shop.v2.Orders/Get") == ["127.0.0.1:10002"]
    assert len(addresses(table(state))) == 2


def test_nobody_takes_over_what_the_edge_answers() -> None:
    routes = table(directory(instance(1, grpc_services=("grpc.health.v1.Health", ORDERS))))
    found = routes.find(b"/grpc.health.v1.Health/Check")
    assert found is not None
    assert found.is_local


def test_instances_that_do_not_serve_get_no_calls() -> None:
    state = directory(
        instance(1, health=Health.NOT_SERVING),
        instance(2),
        instance(3, health=Health.DRAINING),
        instance(4, health=Health.STARTING),
        instance(5, weight=0),
    )
    assert addresses(table(state)) == ["127.0.0.1:10002"]


def test_endpoints_outlive_a_change_and_leave_with_their_instance() -> None:
    pool = EndpointPool(BreakerOptions())
    assert pool.update(directory(instance(1), instance(2))) == []
    kept, leaving = pool.of("orders")
    assert pool.update(directory(instance(1, weight=7))) == [leaving]
    assert pool.all() == [kept]
    assert kept.instance.weight == 7


@given(st.lists(st.text("abcXYZ_09", min_size=1, max_size=8), max_size=400))
def test_method_names_of_clients_do_not_grow_the_table(names: list[str]) -> None:
    state = directory(instance())
    pool = EndpointPool(BreakerOptions())
    pool.update(state)
    routes = compile_table(state, pool, public_only=False)
    for number, name in enumerate(names * 3):
        routes.find(f"/{ORDERS}/{name}{number}".encode())
    assert len(routes._cache) <= MAX_METHODS
    assert len(routes.routes[ORDERS]._methods) <= MAX_METHODS + 1
    late = routes.find(f"/{ORDERS}/Late".encode())
    assert late is not None
    assert late.service == "orders"
