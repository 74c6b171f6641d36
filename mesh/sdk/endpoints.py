"""The endpoints of a service as a client sees them: one connection each, and what was learnt of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from mesh.discovery.model import Instance
from mesh.resilience.breaker import Breaker
from mesh.resilience.outlier import Host
from mesh.resilience.peak_ewma import Latency

# Given an endpoint, its channel.
Connect = Callable[["Endpoint"], grpc.aio.Channel]


class Endpoint:
    """One address of one instance. Lives as long as the registration, so its breaker remembers."""

    __slots__ = (
        "_connect",
        "_methods",
        "address",
        "breaker",
        "calls",
        "channel",
        "failures",
        "in_flight",
        "instance",
        "latency",
        "left",
        "outlier",
        "where",
    )

    def __init__(self, instance: Instance, address: str, breaker: Breaker, connect: Connect) -> None:
        self.instance = instance
        self.address = address
        self.breaker = breaker
        # It is no longer registered: calls that have it in mind must not connect to it anew.
        self.left = False
        # For spans.
        self.where = {"mesh.instance": instance.instance_id, "server.address": address}
        self.in_flight = 0
        self.calls = 0
        self.failures = 0
        # Where a policy asks for them: how long it takes, and what speaks for setting it aside.
        self.latency: Latency | None = None
        self.outlier: Host | None = None
        # Connected when first needed.
        self.channel: grpc.aio.Channel | None = None
        self._connect = connect
        self._methods: dict[Any, Any] = {}

    @property
    def key(self) -> tuple[str, str]:
        return self.instance.instance_id, self.address

    def callable(self, method: Any) -> Any:
        """Return what makes calls of a method (`mesh.sdk.channel.Method`) here."""
        found = self._methods.get(method)
        if found is None:
            if self.channel is None:
                self.channel = self._connect(self)
            found = self._methods[method] = method.on(self.channel)
        return found

    def let_go(self) -> grpc.aio.Channel | None:
        """Return the channel, which is to be closed: the next call gets a new one."""
        channel, self.channel = self.channel, None
        self._methods.clear()
        return channel

    def __repr__(self) -> str:
        return f"<Endpoint {self.instance.service}/{self.instance.instance_id} {self.address}>"
