from __future__ import annotations

from collections import Counter
from dataclasses import replace

from mesh.discovery.model import Health, Instance
from mesh.resilience.breaker import Breaker, BreakerOptions
from mesh.testing.clock import ManualClock
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.targets import Targets
from proxy.upstream.weighing import Weighing


def endpoints(*instances: Instance) -> list[Endpoint]:
    return [Endpoint(one, one.endpoints[0], Breaker(BreakerOptions())) for one in instances]


def an_instance(name: str, zone: str = "", **fields: float | Health) -> Instance:
    return replace(Instance("orders", name, (f"{name}:1",), zone=zone), **fields)  # type: ignore[arg-type]


def turns(targets: Targets) -> dict[str, float]:
    counted = Counter(endpoint.instance_id for endpoint in targets._schedule)
    return {name: count / len(targets._schedule) for name, count in counted.items()}


def test_one_that_warms_up_gets_more_with_time_and_all_in_the_end() -> None:
    clock = ManualClock()
    weighing = Weighing("", clock)
    began = clock.wall_ns() / 1e9
    known = endpoints(an_instance("old"), an_instance("new", warm_up_seconds=30.0, serving_since=began))
    shares = []
    for _ in range(4):
        shares.append(turns(Targets(known, weighing))["new"])
        clock.advance(10)
    assert [round(share, 2) for share in shares] == [0.09, 0.25, 0.4, 0.5]
    assert not weighing.changes(one.instance for one in known)


def test_calls_stay_in_the_zone_and_others_are_there_when_none_is_admitted() -> None:
    weighing = Weighing("a", ManualClock())
    known = endpoints(an_instance("a1", "a"), an_instance("a2", "a"), an_instance("b1", "b"))
    targets = Targets(known, weighing)
    assert turns(targets) == {"a1": 0.5, "a2": 0.5}
    assert [endpoint.instance_id for endpoint in targets.endpoints] == ["a1", "a2", "b1"]
    known[0].instance = replace(known[0].instance, health=Health.NOT_SERVING)
    assert turns(Targets(known, weighing)) == {"a2": 0.7, "b1": 0.3}


def test_without_zone_and_warm_up_weights_are_as_registered() -> None:
    known = endpoints(an_instance("x", "a"), replace(an_instance("y", "b"), weight=300))
    assert turns(Targets(known, Weighing("", ManualClock()))) == {"x": 0.25, "y": 0.75}
