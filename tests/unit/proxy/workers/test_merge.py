from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.registry import Collector

from proxy.workers.merge import Families, Family, merge, parse, totals, without_departed


def said(text: str, worker: str = "0") -> Families:
    return parse("\n".join(line.strip() for line in text.strip().splitlines()) + "\n", worker)


def values(families: Families) -> dict[str, float]:
    found = {}
    for family in families.values():
        for (name, labels), value in family.samples.items():
            found[name + "".join(f" {label}={text}" for label, text in labels)] = value
    return found


ONE = """
    # TYPE mesh_edge_calls_total counter
    mesh_edge_calls_total{code="OK"} 3
    # TYPE mesh_edge_call_duration_seconds histogram
    mesh_edge_call_duration_seconds_bucket{le="0.1"} 1
    mesh_edge_call_duration_seconds_bucket{le="+Inf"} 3
    mesh_edge_call_duration_seconds_count 3
    mesh_edge_call_duration_seconds_sum 1.5
    # TYPE mesh_edge_calls_in_flight gauge
    mesh_edge_calls_in_flight 2
    # TYPE mesh_edge_breaker_state gauge
    mesh_edge_breaker_state{endpoint="a:1"} 0
    mesh_edge_breaker_state{endpoint="b:1"} 2
    # TYPE mesh_edge_registry_connected gauge
    mesh_edge_registry_connected 1
    # TYPE mesh_edge_endpoint_attempts_total counter
    mesh_edge_endpoint_attempts_total{endpoint="a:1"} 3
    # TYPE process_cpu_seconds_total counter
    process_cpu_seconds_total 0.5
"""
OTHER = """
    # TYPE mesh_edge_calls_total counter
    mesh_edge_calls_total{code="OK"} 4
    mesh_edge_calls_total{code="UNKNOWN"} 1
    # TYPE mesh_edge_call_duration_seconds histogram
    mesh_edge_call_duration_seconds_bucket{le="0.1"} 5
    mesh_edge_call_duration_seconds_bucket{le="+Inf"} 5
    mesh_edge_call_duration_seconds_count 5
    mesh_edge_call_duration_seconds_sum 0.25
    # TYPE mesh_edge_calls_in_flight gauge
    mesh_edge_calls_in_flight 1
    # TYPE mesh_edge_breaker_state gauge
    mesh_edge_breaker_state{endpoint="a:1"} 1
    # TYPE mesh_edge_registry_connected gauge
    mesh_edge_registry_connected 0
    # TYPE process_cpu_seconds_total counter
    process_cpu_seconds_total 0.75
"""


def test_each_metric_is_merged_by_its_meaning() -> None:
    assert values(merge((said(ONE), said(OTHER, "1")))) == {
        "mesh_edge_calls_total code=OK": 7,
        "mesh_edge_calls_total code=UNKNOWN": 1,
        "mesh_edge_call_duration_seconds_bucket le=0.1": 6,
        "mesh_edge_call_duration_seconds_bucket le=+Inf": 8,
        "mesh_edge_call_duration_seconds_count": 8,
        "mesh_edge_call_duration_seconds_sum": 1.75,
        "mesh_edge_calls_in_flight": 3,
        "mesh_edge_breaker_state endpoint=a:1": 1,
        "mesh_edge_breaker_state endpoint=b:1": 2,
        "mesh_edge_registry_connected": 0,
        "mesh_edge_endpoint_attempts_total endpoint=a:1": 3,
        "process_cpu_seconds_total worker=0": 0.5,
        "process_cpu_seconds_total worker=1": 0.75,
    }


def test_merging_changes_nothing_of_what_is_merged() -> None:
    one, other = said(ONE), said(OTHER, "1")
    merge((one, other))
    assert values(one) == values(said(ONE))
    assert values(other) == values(said(OTHER, "1"))


def test_what_a_process_did_outlives_it_but_not_how_it_was() -> None:
    left = values(totals(said(ONE)))
    assert left["mesh_edge_calls_total code=OK"] == 3
    assert left["mesh_edge_call_duration_seconds_count"] == 3
    assert not [name for name in left if name.startswith(("process_", "mesh_edge_breaker", "mesh_edge_registry"))]
    assert "mesh_edge_calls_in_flight" not in left


def test_endpoints_that_nobody_knows_any_more_are_forgotten() -> None:
    ended = totals(said(ONE))
    assert "mesh_edge_endpoint_attempts_total endpoint=a:1" in values(without_departed(ended, said(ONE)))
    kept = values(without_departed(ended, said(OTHER)))
    assert "mesh_edge_endpoint_attempts_total endpoint=a:1" not in kept
    assert kept["mesh_edge_calls_total code=OK"] == 3


def test_what_was_merged_can_be_written_and_read_again() -> None:
    merged = merge((said(ONE), said(OTHER, "1")))

    class Merged(Collector):
        def collect(self) -> list:
            return [family.metric() for family in merged.values()]

    text = generate_latest(Merged()).decode()
    again = parse(text, "unused")
    del again["process_cpu_seconds"], merged["process_cpu_seconds"]
    assert values(again) == values(merged)
    assert {name: family.type for name, family in again.items()} == {
        name: family.type for name, family in merged.items()
    }


def test_a_family_adds_what_it_has_no_rule_for() -> None:
    family = Family("mesh_edge_something", "", "gauge")
    family.add(("mesh_edge_something", ()), 1)
    family.add(("mesh_edge_something", ()), 2)
    assert family.samples == {("mesh_edge_something", ()): 3}
