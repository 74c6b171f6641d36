from __future__ import annotations

import json

from mesh.api.edge.v1 import BreakerState, GetInfoResponse, UpstreamEndpoint
from mesh.api.registry.v1 import Exposure, Health, Instance, Service
from mesh.cli.overview.collect import EdgeView, Overview
from mesh.cli.overview.show import lines, structure

ORDERS = Service(name="orders", grpc_services=["shop.v1.Orders"], exposure=Exposure.EXPOSURE_PUBLIC)


def instance(name: str, *endpoints: str, health: Health.ValueType = Health.HEALTH_SERVING) -> Instance:
    return Instance(service="orders", instance_id=name, endpoints=endpoints, version="1", health=health)


def edge(name: str, breaker: BreakerState.ValueType, in_flight: int) -> EdgeView:
    endpoint = UpstreamEndpoint(instance_id="o1", address="a:1", breaker=breaker, calls_in_flight=in_flight)
    info = GetInfoResponse(instance_id=name, engine="aio", registry_connected=True, calls_total=5, calls_in_flight=2)
    return EdgeView(name, f"{name}:1", info, {("orders", "o1", "a:1"): endpoint})


def test_the_worst_breaker_and_the_sum_of_calls_are_shown() -> None:
    edges = [edge("e1", BreakerState.BREAKER_STATE_CLOSED, 2), edge("e2", BreakerState.BREAKER_STATE_HALF_OPEN, 3)]
    overview = Overview(7, [ORDERS], [instance("o1", "a:1")], edges)
    assert lines(overview)[1].split() == ["orders", "public", "o1", "a:1", "1", "SERVING", "HALF_OPEN", "5"]
    (endpoint,) = structure(overview)["services"][0]["instances"][0]["endpoints"]
    assert (endpoint["breaker"], endpoint["calls_in_flight"]) == ("HALF_OPEN", 5)
    assert {name: seen["breaker"] for name, seen in endpoint["edges"].items()} == {"e1": "CLOSED", "e2": "HALF_OPEN"}


def test_a_row_for_every_endpoint_and_for_a_service_without_any() -> None:
    services = [ORDERS, Service(name="empty")]
    overview = Overview(7, services, [instance("o1", "a:1", "b:2", health=Health.HEALTH_DRAINING)], [])
    head, *rows = lines(overview)
    assert head.startswith("SERVICE")
    assert [row.split()[:4] for row in rows] == [
        ["empty", "internal", "-", "-"],
        ["orders", "public", "o1", "a:1"],
        ["orders", "public", "o1", "b:2"],
    ]
    assert "no live instance" in rows[0]
    assert rows[1].split()[5:] == ["DRAINING", "-", "-"]


def test_nothing_registered_is_said() -> None:
    assert lines(Overview(1, [], [], [])) == ["No service is registered."]


def test_an_edge_that_does_not_answer_is_said() -> None:
    overview = Overview(7, [ORDERS], [], [EdgeView("e1", "e1:1", error="UNAVAILABLE")])
    assert lines(overview)[-1] == "edge e1 at e1:1: does not answer (UNAVAILABLE)"
    assert structure(overview)["edges"] == [{"instance_id": "e1", "address": "e1:1", "error": "UNAVAILABLE"}]


def test_an_edge_says_its_engine_and_whether_it_hears_the_registry() -> None:
    away = EdgeView("e1", "e1:1", GetInfoResponse(engine="wire"))
    assert lines(Overview(7, [ORDERS], [], [away]))[-1] == (
        "edge e1 at e1:1: engine wire, calls 0, in flight 0, registry away, it goes on with what it knows"
    )


def test_the_structure_is_json() -> None:
    overview = Overview(7, [ORDERS], [instance("o1", "a:1")], [edge("e1", BreakerState.BREAKER_STATE_OPEN, 1)])
    assert json.loads(json.dumps(structure(overview))) == structure(overview)
