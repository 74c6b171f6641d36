"""What people are shown of the routes in force, and what is pointed out to them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery.model import Directory
from mesh.edge.policy.document import Document
from mesh.resilience.breaker import BreakerOptions
from proxy.call.limits import Limits
from proxy.policy.document import read
from proxy.routing.choice import Turn, weighted
from proxy.routing.describe import Way, describe, warnings
from proxy.upstream.pool import EndpointPool
from tests.unit.proxy.helpers import ORDERS, directory, instance, table


def ways(state: Directory, document: Document, method: str = "*") -> list[Way]:
    pool = EndpointPool(BreakerOptions())
    pool.update(state)
    found = list(describe(document, "internal", table(state), state, pool))
    return [way for one in found if (one.grpc_service, one.method) == (ORDERS, method) for way in one.ways]


def document(**content: Any) -> Document:
    return read(content, Limits())


def test_without_a_configuration_there_is_one_way_each() -> None:
    (only,) = ways(directory(instance(1), instance(2)), Document())
    assert (only.origin, only.service, only.endpoints, only.policies) == ("", "orders", 2, {})


def test_ways_stand_in_the_order_in_which_they_are_tried() -> None:
    state = directory(instance(1), instance(2, service="next"))
    found = document(
        routes=[
            {"name": "testers", "match": {"headers": {"x-a": {"prefix": "b"}}}, "to": [{"service": "next"}]},
            {"match": {"methods": [f"{ORDERS}/Get"]}, "to": [{"service": "orders"}, {"service": "next", "weight": 3}]},
            {"match": {}, "to": [{"service": "orders"}]},
        ],
        services={"next": {"timeout": {"max_seconds": 1}}},
        methods={f"/{ORDERS}/Get": {"retry": {"attempts": 2}}},
    )
    get = [(way.origin, way.name, way.match, way.service, way.weight) for way in ways(state, found, "Get")]
    assert get == [
        ("routes[0]", "testers", "x-a begins with 'b'", "next", 1),
        ("routes[1]", "", "", "orders", 1),
        ("routes[1]", "", "", "next", 3),
    ]
    assert [way.origin for way in ways(state, found)] == ["routes[0]", "routes[2]"]
    assert ways(state, found, "Get")[2].policies == {
        "timeout": "services.next.timeout",
        "retry": f'methods["/{ORDERS}/Get"].retry',
    }


def test_what_may_not_be_meant_is_pointed_out() -> None:
    found = document(
        routes=[{"match": {"methods": ["a.B/*"]}, "to": [{"service": "x"}], "mirror": {"service": "y"}}],
        services={"z": {}},
        methods={"/c.D/E": {"timeout": {"max_seconds": 1}}},
    )
    assert warnings(found, directory(instance())) == [
        "services.z: is not registered",
        'methods["/c.D/E"]: no registered service has c.D',
        "routes[0]: x is not registered",
        "routes[0]: y is not registered",
        "routes[0]: no registered service has a.B",
    ]
    own = document(routes=[{"match": {"methods": [f"{ORDERS}/*"]}, "mirror": {"service": "orders"}}])
    assert warnings(own, directory(instance())) == [
        f"routes[0]: {ORDERS} is not copied to orders, where its calls go anyway"
    ]


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6))
def test_turns_are_exact_over_a_round_whatever_the_weights(weights: list[int]) -> None:
    routes: Any = [f"way {number}" for number in range(len(weights))]
    take = weighted(routes, weights, Turn())
    seen = [take({}) for _ in range(sum(weights))]
    assert [seen.count(route) for route in routes] == weights


@given(st.integers(1, 99), st.integers(0, 99), st.binary(max_size=20))
def test_who_goes_the_last_way_stays_there_while_it_grows(share: int, more: int, value: bytes) -> None:
    routes: Any = ["old", "new"]
    grown = min(99, share + more)
    before, after = (weighted(routes, [100 - one, one], Turn(), b"x-user") for one in (share, grown))
    call = {b"x-user": value}
    pair: Any = (before(call), after(call))
    assert pair in {("old", "old"), ("old", "new"), ("new", "new")}
    assert before(call) == before(call)
