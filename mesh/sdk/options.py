"""What a service says of itself when it joins the mesh."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh.discovery.model import DEFAULT_WEIGHT
from mesh.options import (
    ADVERTISE_VARIABLE,
    ENVIRONMENT_VARIABLE,
    INSTANCE_VARIABLE,
    LISTEN_VARIABLE,
    STATE_VARIABLE,
    VERSION_VARIABLE,
    ZONE_VARIABLE,
    default_control,
    parse_address,
    require,
    said,
)
from mesh.tls.options import ListenerTls

PUBLIC, INTERNAL = "public", "internal"
ANY_PORT = "127.0.0.1:0"

_SERVICE = re.compile(r"[a-z][a-z0-9-]{0,62}")
# As the registry takes them.
_INSTANCE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_WILDCARDS = ("0.0.0.0:", "[::]:")
_MAX_WEIGHT = 1000


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """Who joins, where, and how it comes and goes. Seconds, where a name says so."""

    service: str
    # "public": clients of the edge's public listener reach it; "internal": only who is in the mesh.
    exposure: str = INTERNAL
    # Its own name among its siblings. Unset: MESH_INSTANCE, else SERVICE- and random digits.
    instance_id: str = field(default_factory=lambda: said(INSTANCE_VARIABLE))
    # "HOST:PORT[,HOST:PORT...]". Unset: MESH_CONTROL, else where `mesh up` puts it.
    control: str = field(default_factory=default_control)
    # Where it takes calls; port 0 is any that is free. Unset: MESH_LISTEN, else a port of this machine alone.
    listen: str = field(default_factory=lambda: said(LISTEN_VARIABLE, ANY_PORT))
    # Where others reach it, if that is not where it listens: "HOST" or "HOST:PORT". Unset: MESH_ADVERTISE.
    advertise: str = field(default_factory=lambda: said(ADVERTISE_VARIABLE))
    # What runs, where, and in which environment of the configuration. Unset: MESH_VERSION, MESH_ZONE, MESH_ENVIRONMENT.
    version: str = field(default_factory=lambda: said(VERSION_VARIABLE))
    zone: str = field(default_factory=lambda: said(ZONE_VARIABLE))
    environment: str = field(default_factory=lambda: said(ENVIRONMENT_VARIABLE))
    # Its share of calls relative to its siblings, and how long that takes to grow from a tenth to all.
    weight: int = DEFAULT_WEIGHT
    warm_up_seconds: float = 0.0
    # Anything else to say of it: routes choose by these, and gray releases.
    labels: Mapping[str, str] = field(default_factory=dict)
    # How long the registry keeps it without a sign of life.
    ttl_seconds: float = 15.0
    # When it leaves: how long callers may take to put that into force, and calls under way to finish.
    drain_seconds: float = 5.0
    grace_seconds: float = 10.0
    # Whether grpc.health.v1 says that it serves before a registry knows it. It takes calls in any case.
    serve_without_control: bool = False
    # A folder that keeps the last state of the mesh, for a start while no control process answers, and what could not
    # be shipped. Unset: MESH_STATE, else none.
    state: Path | None = field(default_factory=lambda: Path(text) if (text := said(STATE_VARIABLE)) else None)
    # Of its own listener; without a certificate it speaks plaintext.
    tls: ListenerTls = field(default_factory=ListenerTls)
    # Whether it ships its logs and spans and pushes its metrics to the control plane.
    telemetry: bool = True
    # Whether others can ask what it serves (grpcurl does).
    reflection: bool = True

    def __post_init__(self) -> None:
        """Check the values; raises UsageError, which names the one that makes no sense."""
        require(
            is_service(self.service),
            f"service: '{self.service}' is no name of a service: small letters, digits and -, as in 'orders'",
        )
        require(self.exposure in (PUBLIC, INTERNAL), f"exposure: '{self.exposure}' is neither public nor internal")
        if not self.instance_id:
            object.__setattr__(self, "instance_id", f"{self.service}-{secrets.token_hex(4)}")
        require(
            _INSTANCE.fullmatch(self.instance_id) is not None,
            f"instance_id: '{self.instance_id}' is none: letters, digits and ._:-, at most 128 of them",
        )
        object.__setattr__(self, "listen", parse_address(self.listen, "listen", port_zero=True))
        if self.listen.startswith(_WILDCARDS):
            require(
                bool(self.advertise),
                f"listen: {self.listen} is every address of this machine: say with advertise, or "
                f"{ADVERTISE_VARIABLE}, at which one the others reach it",
            )
        require(0 <= self.weight <= _MAX_WEIGHT, f"weight must be from 0 to {_MAX_WEIGHT}")
        require(1 <= self.ttl_seconds <= 3600, "ttl_seconds must be from 1 to 3600")
        for name in ("warm_up_seconds", "drain_seconds", "grace_seconds"):
            require(0 <= getattr(self, name) <= 3600, f"{name} must be from 0 to 3600")

    def reached_at(self, port: int) -> str:
        """Return where others reach it when it listens on `port`.

        Raises:
            UsageError: `advertise` is no address.

        """
        where = self.advertise
        if not where:
            return f"{self.listen.rpartition(':')[0]}:{port}"
        has_port = where.endswith("]") is False and ":" in where and (where.startswith("[") or where.count(":") == 1)
        return parse_address(where if has_port else f"{where}:{port}", "advertise")


def is_service(name: str) -> bool:
    """Tell whether a service can be called so."""
    return _SERVICE.fullmatch(name) is not None
