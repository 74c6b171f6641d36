"""All endpoints that live, kept over changes so that their breakers and counts survive.

A fleet of thousands changes all the time, one instance at a time: what is worked out of the endpoints of a service is
kept until that service changes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from mesh.discovery.model import Directory, Health, Instance
from mesh.edge.policy.routes import has_labels
from mesh.resilience.breaker import Breaker, BreakerOptions
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.plan import Plans
from proxy.upstream.targets import Targets
from proxy.upstream.weighing import Weigh, plain

if TYPE_CHECKING:
    from mesh.edge.policy.document import Labels

# Tells whether the weights of some instances will be others in a moment.
Changes: TypeAlias = Callable[[Iterable[Instance]], bool]


class _Members:
    """The endpoints of one service, and what was worked out of them."""

    __slots__ = ("declared", "endpoints", "instances", "options", "targets", "warms")

    def __init__(self) -> None:
        self.instances: list[Instance] = []
        # In a stable order.
        self.endpoints: list[Endpoint] = []
        self.options: BreakerOptions | None = None
        # The gRPC services of all, and of those that are public.
        self.declared: dict[bool, frozenset[str]] = {}
        # Some may still warm up: what is kept is not for long.
        self.warms = False
        # By gRPC service, labels, whether public alone, and how they are weighed.
        self.targets: dict[tuple[str, Labels, bool, Weigh], Targets] = {}

    def follow(self, instances: list[Instance], options: BreakerOptions) -> Iterable[Endpoint]:
        """Take the instances of now; returns the endpoints that left."""
        before = self.instances
        same = len(before) == len(instances) and all(map(operator.is_, before, instances))
        if same and options == self.options:
            return ()
        old, new = {endpoint.key: endpoint for endpoint in self.endpoints}, {}
        for instance in instances:
            for address in instance.endpoints:
                key = (instance.service, instance.instance_id, address)
                endpoint = old.get(key) or Endpoint(instance, address, Breaker(options))
                endpoint.instance = instance
                if endpoint.breaker.options != options:
                    endpoint.breaker.follow(options)
                new[key] = endpoint
        self.instances, self.options = instances, options
        self.endpoints = [new[key] for key in sorted(new)]
        self.declared = {
            public: frozenset(name for one in instances if one.public or not public for name in one.grpc_services)
            for public in (False, True)
        }
        self.warms = any(one.warm_up_seconds for one in instances)
        self.targets = {}
        return (endpoint for key, endpoint in old.items() if key not in new)


_NOBODY = _Members()


class EndpointPool:
    """The endpoints of a directory."""

    def __init__(self, breaker: BreakerOptions, plans: Plans | None = None) -> None:
        """Make it; `breaker` is for services whose policies do not say otherwise."""
        self._breaker = breaker
        self._plans = plans
        self._members: dict[str, _Members] = {}

    def update(self, directory: Directory) -> list[Endpoint]:
        """Follow the directory and return the endpoints that left it."""
        of: dict[str, list[Instance]] = {}
        for instance in directory.instances.values():
            of.setdefault(instance.service, []).append(instance)
        gone: list[Endpoint] = []
        for name in self._members.keys() - of.keys():
            gone += self._members.pop(name).endpoints
        for name, instances in of.items():
            members = self._members.get(name)
            if members is None:
                members = self._members[name] = _Members()
            gone += members.follow(instances, self._options(name))
        return gone

    def reweigh(self, changes: Changes) -> bool:
        """Forget what was worked out of weights that are others by now; returns whether there was any."""
        found = False
        for members in self._members.values():
            now = changes(members.instances)
            if now or members.warms:
                members.targets = {}
                found = True
            members.warms = now
        return found

    def willing(self, service: str) -> set[Hashable]:
        """Return the keys of the endpoints of a service that want calls."""
        return {
            endpoint.key
            for endpoint in self._of(service).endpoints
            if endpoint.instance.health is Health.SERVING and endpoint.instance.weight
        }

    def of(self, service: str) -> Sequence[Endpoint]:
        """Return the endpoints of a service in a stable order."""
        return tuple(self._of(service).endpoints)

    def all(self) -> list[Endpoint]:
        """Return every endpoint in a stable order."""
        return [endpoint for name in sorted(self._members) for endpoint in self._members[name].endpoints]

    def has_public(self, service: str) -> bool:
        """Tell whether any instance of a service is public."""
        return any(instance.public for instance in self._of(service).instances)

    def declared(self, service: str, *, public_only: bool = False) -> frozenset[str]:
        """Return the gRPC services that the instances of a service declare."""
        return self._of(service).declared.get(public_only, frozenset())

    def targets(
        self, service: str, grpc_service: str, labels: Labels = (), *, public_only: bool = False, weigh: Weigh = plain
    ) -> Targets:
        """Return the endpoints of a service that have a gRPC service and all the labels; the same until they change."""
        members = self._of(service)
        key = (grpc_service, labels, public_only, weigh)
        made = members.targets.get(key)
        if made is None:
            endpoints = [
                one
                for one in members.endpoints
                if grpc_service in one.instance.grpc_services
                and (one.instance.public or not public_only)
                and has_labels(one.instance, labels)
            ]
            made = Targets(endpoints, weigh)
            if members is not _NOBODY:
                members.targets[key] = made
        return made

    def _of(self, service: str) -> _Members:
        return self._members.get(service, _NOBODY)

    def _options(self, service: str) -> BreakerOptions:
        policy = self._plans.whole(service) if self._plans is not None else None
        return (policy.breaker if policy is not None else None) or self._breaker
