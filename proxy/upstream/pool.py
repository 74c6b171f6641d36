"""All endpoints that live, kept over changes so that their breakers and counts survive."""

from __future__ import annotations

from collections.abc import Hashable

from mesh.discovery.model import Directory, Health
from mesh.resilience.breaker import Breaker, BreakerOptions
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.plan import Plans


class EndpointPool:
    """The endpoints of a directory."""

    def __init__(self, breaker: BreakerOptions, plans: Plans | None = None) -> None:
        """Make it; `breaker` is for services whose policies do not say otherwise."""
        self._breaker = breaker
        self._plans = plans
        self._endpoints: dict[tuple[str, str, str], Endpoint] = {}
        self._of: dict[str, list[Endpoint]] = {}

    def update(self, directory: Directory) -> list[Endpoint]:
        """Follow the directory and return the endpoints that left it."""
        old, new = self._endpoints, {}
        breakers = {name: self._options(name) for name in {one.service for one in directory.instances.values()}}
        for instance in directory.instances.values():
            options = breakers[instance.service]
            for address in instance.endpoints:
                key = (instance.service, instance.instance_id, address)
                endpoint = old.get(key) or Endpoint(instance, address, Breaker(options))
                endpoint.instance = instance
                if endpoint.breaker.options != options:
                    endpoint.breaker.follow(options)
                new[key] = endpoint
        self._endpoints = new
        self._of = {}
        for key in sorted(new):
            self._of.setdefault(key[0], []).append(new[key])
        return [endpoint for key, endpoint in old.items() if key not in new]

    def _options(self, service: str) -> BreakerOptions:
        policy = self._plans.whole(service) if self._plans is not None else None
        return (policy.breaker if policy is not None else None) or self._breaker

    def willing(self) -> dict[str, set[Hashable]]:
        """Return the keys of the endpoints that want calls, by service."""
        found: dict[str, set[Hashable]] = {}
        for key, endpoint in self._endpoints.items():
            if endpoint.instance.health is Health.SERVING and endpoint.instance.weight:
                found.setdefault(endpoint.service, set()).add(key)
        return found

    def of(self, service: str) -> list[Endpoint]:
        """Return the endpoints of a service in a stable order."""
        return list(self._of.get(service, ()))

    def all(self) -> list[Endpoint]:
        """Return every endpoint in a stable order."""
        return [self._endpoints[key] for key in sorted(self._endpoints)]
