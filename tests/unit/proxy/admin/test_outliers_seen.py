"""What the edge says of endpoints that are set aside, and of retries."""

from __future__ import annotations

from prometheus_client import generate_latest

from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.policy import OutlierOptions, RetryOptions, RoutePolicy
from mesh.testing import ManualClock
from proxy.admin.prometheus import edge_registry
from proxy.admin.service import EdgeAdmin, EdgeInfo
from proxy.admin.state import MeshState
from proxy.stack import Stack, StackOptions, ignore_errors
from proxy.upstream.plan import Plans
from tests.unit.proxy.helpers import directory, instance


async def test_an_ejection_is_seen_and_its_end() -> None:
    clock = ManualClock()
    stack = Stack(clock, StackOptions(), ignore_errors)
    state = MeshState(BreakerOptions(), {}, plans=Plans(stack.plan))
    policy = RoutePolicy(outlier=OutlierOptions(), retry=RetryOptions(budget_share=0, budget_minimum=0.1))
    state.follow(lambda _service, _method: policy)
    state.update(directory(instance(1), instance(2)), lambda _gone: None)
    info = EdgeInfo("edge-1", "wire", (), clock, lambda: True)
    admin = EdgeAdmin(state, stack.metrics, info)
    registry = edge_registry(stack, state, info)
    route = state.table("internal").find(b"/shop.v1.Orders/Get")
    assert route is not None
    assert route.plan is not None
    assert route.plan.retries is not None
    assert [route.plan.retries.budget.withdraw(clock.now()) for _ in range(3)] == [True, False, False]
    ((_, detector),) = [one for one in state.plans.kept.all() if hasattr(one[1], "hosts")]
    for _ in range(5):
        detector.record(detector.host(state.pool.all()[0].key), clock.now(), failed=True)

    def numbers() -> set[str]:
        lines = generate_latest(registry).decode().splitlines()
        return {line.removesuffix(".0") for line in lines if "eject" in line or line.startswith("mesh_edge_retries")}

    labels = '{endpoint="127.0.0.1:10001",instance="orders-1",service="orders"}'
    assert {f"mesh_edge_endpoint_ejected{labels} 1", f"mesh_edge_endpoint_ejections_total{labels} 1"} <= numbers()
    assert 'mesh_edge_retries_refused_total{service="orders"} 2' in numbers()
    assert 'mesh_edge_retries_total{service="orders"} 1' in numbers()
    first, second = state.pool.all()
    assert (admin._endpoint(first).ejected_seconds, admin._endpoint(first).ejections_total) == (30, 1)
    assert admin._endpoint(second).ejected_seconds == 0
    clock.advance(31)
    assert admin._endpoint(first).ejected_seconds == 0
    assert f"mesh_edge_endpoint_ejected{labels} 1" not in numbers()
