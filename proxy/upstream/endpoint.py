"""One address of one instance, and what the edge has seen of it."""

from __future__ import annotations

from mesh.discovery.model import Instance
from mesh.resilience.breaker import Breaker
from mesh.resilience.outlier import Host
from mesh.resilience.peak_ewma import Latency


class Endpoint:
    """One address of one instance of a service. Lives as long as the registration, so its breaker remembers."""

    __slots__ = (
        "address",
        "breaker",
        "calls",
        "failures",
        "in_flight",
        "instance",
        "instance_id",
        "latency",
        "outlier",
        "service",
    )

    def __init__(self, instance: Instance, address: str, breaker: Breaker) -> None:
        self.service = instance.service
        self.instance_id = instance.instance_id
        self.address = address
        self.instance = instance
        self.breaker = breaker
        self.in_flight = 0
        self.calls = 0
        self.failures = 0
        # Where a policy asks for them: how long it takes, and what speaks for setting it aside.
        self.latency: Latency | None = None
        self.outlier: Host | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.service, self.instance_id, self.address

    def __repr__(self) -> str:
        return f"<Endpoint {self.service}/{self.instance_id} {self.address}>"
