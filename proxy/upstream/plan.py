"""What the policies of routes come to on this edge. Pure."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Hashable
from typing import Any, TypeAlias, TypeVar

from mesh.resilience.outlier import OutlierDetector
from mesh.resilience.policy import RoutePolicy
from proxy.call.pipeline import Pipeline
from proxy.upstream.balanced import BalancedTargets, Balancing
from proxy.upstream.retry import Retries
from proxy.upstream.targets import Targets

V = TypeVar("V")

# Given a service of the registry and the full name of a method, "shop.v1.Orders/Get", the policy in force for it. ""
# asks for that of the service as a whole, which rules what belongs to endpoints and not to calls: breakers and
# ejections.
Policies: TypeAlias = Callable[[str, str], RoutePolicy | None]


class Kept:
    """What was learnt under policies (budgets, buckets, ejections): made once for a key, kept over changes.

    The key begins with the service. What two changes of the policies in a row found no use for is forgotten.
    """

    def __init__(self) -> None:
        self._young: dict[tuple[Hashable, ...], Any] = {}
        self._old: dict[tuple[Hashable, ...], Any] = {}

    def get(self, make: Callable[[], V], service: str, *key: Hashable) -> V:
        """Return what is kept for a key, made now where it is not."""
        whole = (service, *key)
        found: V | None = self._young.get(whole)
        if found is None:
            found = self._old.pop(whole, None) or make()
            self._young[whole] = found
        return found

    def all(self) -> list[tuple[str, Any]]:
        """Return what is kept, each with its service."""
        return [(str(key[0]), one) for key, one in {**self._old, **self._young}.items()]

    def turn(self) -> None:
        """Note that the policies changed."""
        self._young, self._old = {}, self._young

    def retain(self, services: Collection[str]) -> None:
        """Forget what belongs to other services."""
        self._young = {key: one for key, one in self._young.items() if key[0] in services}
        self._old = {key: one for key, one in self._old.items() if key[0] in services}


class Plan:
    """The policy of a route, made ready for its calls."""

    __slots__ = ("_balancing", "_made", "pipeline", "policy", "retries")

    def __init__(
        self,
        policy: RoutePolicy,
        pipeline: Pipeline,
        retries: Retries | None = None,
        balancing: Balancing | None = None,
    ) -> None:
        self.policy = policy
        # What the calls of the route pass, in the place of what calls without a policy do.
        self.pipeline = pipeline
        # Which attempts are made again; None is those that nobody would notice.
        self.retries = retries
        # How calls are spread; None is round robin.
        self._balancing = balancing
        self._made: weakref.WeakKeyDictionary[Targets, Targets] = weakref.WeakKeyDictionary()

    def targets(self, plain: Targets) -> Targets:
        """Return the endpoints of a route as the policy picks among them; routes that share them share their turns."""
        if self._balancing is None:
            return plain
        made = self._made.get(plain)
        if made is None:
            made = self._made[plain] = BalancedTargets(plain, self._balancing)
        return made


# Makes the plan of a service's policy; the second one is that of the service as a whole.
PlanMaker: TypeAlias = Callable[[str, RoutePolicy, RoutePolicy, Kept], Plan]


def no_policies(_service: str, _method: str) -> RoutePolicy | None:
    """Ask for nothing."""
    return None


class Plans:
    """The plans of all routes, each made when it is first asked for."""

    def __init__(self, make: PlanMaker | None = None) -> None:
        self._make = make
        self._policies: Policies = no_policies
        self._plans: dict[tuple[str, RoutePolicy], Plan] = {}
        self.kept = Kept()

    def follow(self, policies: Policies) -> None:
        """Take other policies into force, for the routes that are compiled from now on."""
        self._policies = policies
        self._plans.clear()
        self.kept.turn()

    def retain(self, services: Collection[str], willing: Callable[[str], Collection[Hashable]]) -> None:
        """Forget services that are gone, and of the others what is not among the keys of its `willing` endpoints."""
        self._plans = {key: plan for key, plan in self._plans.items() if key[0] in services}
        self.kept.retain(services)
        for service, one in self.kept.all():
            if isinstance(one, OutlierDetector):
                one.follow(willing(service))

    def whole(self, service: str) -> RoutePolicy | None:
        """Return the policy of a service as a whole."""
        return self._policies(service, "")

    def of(self, service: str, method: str) -> Plan | None:
        """Return the plan of a method, None where nothing is asked for."""
        return self.made(service, self._policies(service, method))

    def made(self, service: str, policy: RoutePolicy | None) -> Plan | None:
        """Return the plan of a policy for calls to a service."""
        if policy is None or self._make is None:
            return None
        key = (service, policy)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._make(service, policy, self.whole(service) or policy, self.kept)
        return plan
