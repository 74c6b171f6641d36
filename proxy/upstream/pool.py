"""All endpoints that live, kept over changes so that their breakers and counts survive."""

from __future__ import annotations

from mesh.discovery.model import Directory
from mesh.resilience.breaker import Breaker, BreakerOptions
from proxy.upstream.endpoint import Endpoint


class EndpointPool:
    """The endpoints of a directory."""

    def __init__(self, breaker: BreakerOptions) -> None:
        self._breaker = breaker
        self._endpoints: dict[tuple[str, str, str], Endpoint] = {}

    def update(self, directory: Directory) -> list[Endpoint]:
        """Follow the directory and return the endpoints that left it."""
        old, new = self._endpoints, {}
        for instance in directory.instances.values():
            for address in instance.endpoints:
                key = (instance.service, instance.instance_id, address)
                endpoint = old.get(key) or Endpoint(instance, address, Breaker(self._breaker))
                endpoint.instance = instance
                new[key] = endpoint
        self._endpoints = new
        return [endpoint for key, endpoint in old.items() if key not in new]

    def of(self, service: str) -> list[Endpoint]:
        """Return the endpoints of a service in a stable order."""
        return [self._endpoints[key] for key in sorted(self._endpoints) if key[0] == service]

    def all(self) -> list[Endpoint]:
        """Return every endpoint in a stable order."""
        return [self._endpoints[key] for key in sorted(self._endpoints)]
