"""What a client knows of the mesh: services, their instances, and one consistent state of them all.

Pure: no grpc, no protobuf, no asyncio, so that routing can be compiled and tested from these alone.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

DEFAULT_WEIGHT = 100


class Health(enum.Enum):
    """What an instance says of itself, or what whoever registers it says of it."""

    STARTING = "starting"  # alive, not ready for calls yet
    SERVING = "serving"
    NOT_SERVING = "not_serving"  # alive, and wants no calls now
    DRAINING = "draining"  # about to leave: finishes what it has


@dataclass(frozen=True, slots=True)
class Check:
    """An active check by grpc.health.v1 that an instance asks the registry for. 0 is the registry's default."""

    # What to ask for; empty is the whole server.
    grpc_service: str = ""
    interval_seconds: float = 0.0
    timeout_seconds: float = 0.0
    unhealthy_threshold: int = 0
    healthy_threshold: int = 0


@dataclass(frozen=True, slots=True)
class Instance:
    """One running process of a service."""

    service: str
    instance_id: str
    # "HOST:PORT", "[IPV6]:PORT" or "unix:PATH".
    endpoints: tuple[str, ...]
    version: str = ""
    zone: str = ""
    # Share of calls relative to its siblings; 0 takes none.
    weight: int = DEFAULT_WEIGHT
    metadata: Mapping[str, str] = field(default_factory=dict)
    # Full names, such as "shop.v1.Orders".
    grpc_services: tuple[str, ...] = ()
    public: bool = False
    # The worst of what is said of it, and why that is so, for people.
    health: Health = Health.SERVING
    health_reason: str = ""
    # Seconds over which its share of calls grows to its weight, from when it began to serve (seconds since 1970, 0 is
    # not known): see `mesh.resilience.warmup`.
    warm_up_seconds: float = 0.0
    serving_since: float = 0.0
    # Asks the registry to check it.
    check: Check | None = None
    # Its lease is over, and the registry keeps it because too many of its service expired at once.
    protected: bool = False
    # The revision that made this registration, and that of its last change; 0 before it is registered.
    create_revision: int = 0
    mod_revision: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Where it stands in `Directory.instances`."""
        return self.service, self.instance_id


@dataclass(frozen=True, slots=True)
class Service:
    """What is known of a service, whether or not an instance of it lives."""

    name: str
    grpc_services: tuple[str, ...] = ()
    public: bool = False
    # Of two services that declare the same gRPC service, the older one gets the calls.
    create_revision: int = 0


@dataclass(frozen=True, slots=True)
class Directory:
    """The whole registry at one revision."""

    # Empty when nothing was heard from a registry yet.
    cluster_id: str = ""
    revision: int = 0
    services: Mapping[str, Service] = field(default_factory=dict)
    # By service and instance id.
    instances: Mapping[tuple[str, str], Instance] = field(default_factory=dict)

    EMPTY: ClassVar[Directory]


Directory.EMPTY = Directory()
