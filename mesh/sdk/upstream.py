"""A service as its callers in this process see it: its endpoints, and the plans of its methods."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

from mesh.clock import Clock
from mesh.discovery.model import Health, Instance
from mesh.edge.policy.document import Labels
from mesh.edge.policy.routes import has_labels
from mesh.resilience.breaker import Breaker, BreakerOptions
from mesh.resilience.outlier import OutlierDetector
from mesh.resilience.policy import (
    PEAK_EWMA,
    BalancerOptions,
    HedgeOptions,
    RateLimitOptions,
    RoutePolicy,
    TimeoutOptions,
)
from mesh.resilience.rate_limit import RateLimiter
from mesh.resilience.retry import RetryPolicy
from mesh.resilience.retry_budget import RetryBudget
from mesh.resilience.warmup import shared_weights, warming
from mesh.sdk.connections import Connections
from mesh.sdk.endpoints import Endpoint
from mesh.sdk.plan import PARTS, Plan, Targets, make_targets
from mesh.sdk.ways import Ways

# Given a service and "pkg.Service/Method", the policy in force; "" asks for that of the service as a whole.
Policies = Callable[[str, str], RoutePolicy | None]


class Era:
    """Grows whenever plans that were made before are old: one for all services, as routes lead from one to another."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0


# Given the name of a service, a method and the hedges of a program, where routes lead its calls.
WaysOf = Callable[[str, str, Mapping[str, HedgeOptions]], Ways | None]


class Upstream:
    """One service. What it learnt (breakers, budgets, ejections, buckets) outlives changes of its policies."""

    def __init__(
        self, name: str, zone: str, connections: Connections, policies: Policies, clock: Clock, era: Era | None = None
    ) -> None:
        self.name = name
        self.era = era or Era()
        self.ways_of: WaysOf = lambda _service, _method, _hedges: None
        # The registry was heard of; set, like `changed`, by `follow`.
        self.known = False
        self.changed = asyncio.Event()
        self.in_flight = 0
        self.now = clock.now
        self.budget: RetryBudget | None = None
        # The names of all services that there are.
        self.others: Callable[[], Sequence[str]] = tuple
        self._clock = clock
        self._zone = zone
        self._connections = connections
        self._policies = policies
        self._instances: Sequence[Instance] = ()
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._detector: OutlierDetector | None = None
        self._limiters: dict[tuple[str, RateLimitOptions], RateLimiter] = {}
        self._targets: dict[tuple[BalancerOptions, bool, Labels], Targets] = {}
        self._breaker = BreakerOptions()

    @property
    def endpoints(self) -> list[Endpoint]:
        """Return every endpoint in a stable order."""
        return [self._endpoints[key] for key in sorted(self._endpoints)]

    def follow(self, instances: Sequence[Instance]) -> None:
        """Take what the registry says of the service into force."""
        same = self.known and instances == self._instances
        self.known = True
        if not same:
            self._instances = instances
            old, new = self._endpoints, {}
            for instance in instances:
                for address in instance.endpoints:
                    key = (instance.instance_id, address)
                    endpoint = old.get(key) or Endpoint(
                        instance, address, Breaker(self._breaker), self._connections.connect
                    )
                    endpoint.instance = instance
                    new[key] = endpoint
            self._endpoints = new
            for key, endpoint in old.items():
                if key not in new:
                    self._connections.forget(endpoint)
            self.renew()
        self.changed.set()
        self.changed = asyncio.Event()

    def renew(self) -> None:
        """Have plans made anew: policies, endpoints or weights are others."""
        whole = self._policies(self.name, "")
        self._breaker = (whole.breaker if whole is not None else None) or BreakerOptions()
        for endpoint in self._endpoints.values():
            if endpoint.breaker.options != self._breaker:
                endpoint.breaker.follow(self._breaker)
        if whole is not None and whole.outlier is not None:
            if self._detector is None:
                self._detector = OutlierDetector(whole.outlier, self.now())
            self._detector.options = whole.outlier
            self._detector.follow([one.key for one in self._endpoints.values() if _wants(one)])
        self._targets.clear()
        self.era.number += 1

    def is_warming(self) -> bool:
        """Tell whether weights will be others in a moment."""
        return warming(self._instances, self._clock.wall_ns() / 1e9)

    def plan(self, method: str, hedges: Mapping[str, HedgeOptions]) -> Plan:
        """Return the plan of "pkg.Service/Method" as things are; `hedges` are what the program asks for."""
        plan = self.plan_by(self._policies(self.name, method), method, hedges)
        plan.ways = self.ways_of(self.name, method, hedges)
        return plan

    def plan_by(
        self, policy: RoutePolicy | None, method: str, hedges: Mapping[str, HedgeOptions], labels: Labels = ()
    ) -> Plan:
        """Return the plan of a method under a policy, for the instances with such labels."""
        whole = self._policies(self.name, "") or policy
        detector = self._detector if policy is not None and policy.outlier is not None else None
        plan = Plan(
            self._targets_of(policy, detector, labels),
            breaker=(policy.breaker if policy is not None else None) or self._breaker,
            detector=detector,
            hedge=hedges.get(method) or (policy.hedge if policy is not None else None),
            served=self._served(method),
        )
        if policy is None or whole is None:
            return plan
        plan.timeout = policy.timeout or TimeoutOptions()
        plan.latencies = policy.balancer.kind == PEAK_EWMA
        if policy.retry is not None:
            options = whole.retry or policy.retry
            if self.budget is None:
                self.budget = RetryBudget(options)
            self.budget.follow(options)
            plan.retry = RetryPolicy(policy.retry, self.budget, random.random)
        if policy.rate_limit is not None:
            key = (policy.name, policy.rate_limit)
            plan.limiter = self._limiters.setdefault(key, RateLimiter(policy.rate_limit))
            plan.limit_key = policy.rate_limit.metadata_key
        if policy.limits is not None:
            plan.most_in_flight = policy.limits.max_calls_in_flight
        return plan

    def close(self) -> list[Endpoint]:
        """Forget all endpoints, and return them."""
        endpoints = list(self._endpoints.values())
        for endpoint in endpoints:
            endpoint.left = True
        self._endpoints = {}
        self._targets.clear()
        self.era.number += 1
        return endpoints

    def _targets_of(self, policy: RoutePolicy | None, detector: OutlierDetector | None, labels: Labels) -> Targets:
        key = (policy.balancer if policy is not None else BalancerOptions(), detector is not None, labels)
        found = self._targets.get(key)
        if found is None:
            endpoints = [one for one in self.endpoints if has_labels(one.instance, labels)]
            found = self._targets[key] = make_targets(endpoints, self._weights(endpoints), policy, detector, self.now)
        return found

    def _weights(self, endpoints: Sequence[Endpoint]) -> list[int]:
        instances = [one.instance for one in endpoints]
        if not self._zone and not self.is_warming():
            return [one.weight for one in instances]
        shares = shared_weights(instances, self._zone, self._clock.wall_ns() / 1e9)
        return [max(1, round(share * PARTS)) if share > 0 else 0 for share in shares]

    def _served(self, method: str) -> tuple[str, ...] | None:
        service = method.partition("/")[0]
        declared = {name for one in self._instances for name in one.grpc_services}
        says_all = all(one.grpc_services for one in self._instances)
        if service in declared or service.startswith("grpc.") or not self._instances or not says_all:
            return None
        return tuple(sorted(declared))


def _wants(endpoint: Endpoint) -> bool:
    return endpoint.instance.health is Health.SERVING and endpoint.instance.weight > 0
